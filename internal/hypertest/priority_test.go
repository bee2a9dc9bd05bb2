package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// noRFC7540 is the setting by which a peer says that it uses the priorities of RFC 9218.
var noRFC7540 = wire.Setting{ID: wire.SettingNoRFC7540Priorities, Value: 1}

// at returns a Priority of that urgency. 0 is the most urgent one.
func at(urgency int8) hyper.Priority {
	if urgency == 0 {
		urgency = hyper.MostUrgent
	}
	return hyper.Priority{Urgency: urgency}
}

// parts returns p with Incremental set.
func parts(p hyper.Priority) hyper.Priority {
	p.Incremental = true
	return p
}

// RFC 9218 §4: u is 0 to 7, i is a boolean, and what has the default need not be sent.
func TestPriorityIsSentAsAField(t *testing.T) {
	for p, want := range map[hyper.Priority]string{
		{}:                      "",
		{Incremental: true}:     "i",
		at(0):                   "u=0",
		{Urgency: -128}:         "u=0",
		at(3):                   "u=3",
		at(7):                   "u=7",
		parts(at(5)):            "u=5, i",
		parts(at(0)):            "u=0, i",
		parts(hyper.Priority{}): "i",
	} {
		if p.String() != want {
			t.Errorf("%+v is %q, want %q", p, p.String(), want)
		}
		eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
			if v.own {
				t.Skip("the next test has these doors")
			}
			call := v.send(withRequest(v.request("GET", "/", nil), func(r *hyper.Request) { r.Priority = p }))
			peer := v.accept()
			if got := peer.WantHeaders("the request", 1).Get("priority"); got != want {
				t.Errorf("%+v: sent %q, want %q", p, got, want)
			}
			h2test.AnswerEmpty(peer.Peer, 1)
			call.Want(t, "the response").Body.Close()
		})
	}
}

// A priority field of the caller's is sent as it is, and only once. NoDefaultFields does not leave
// out what the caller asked for.
func TestPriorityFieldOfTheCallerIsSent(t *testing.T) {
	for _, test := range []struct {
		req  hyper.Request
		want []string
	}{
		{hyper.Request{NoDefaultFields: true, Priority: at(2)}, []string{"priority: u=2"}},
		{hyper.Request{NoDefaultFields: true, Priority: at(2), Header: hyper.Header{{Name: "Priority",
			Value: "u=1, x=1"}}}, []string{"priority: u=1, x=1"}},
		{hyper.Request{Method: "CONNECT", Authority: "example.com:443", NoDefaultFields: true,
			Priority: parts(at(4))}, []string{"priority: u=4, i"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			call := doAsync(context.Background(), conn, &test.req)
			h := peer.WantHeaders("the request", 1, test.want...)
			n := 0
			for _, f := range h.Fields {
				if f.Name == "priority" {
					n++
				}
			}
			if n != 1 {
				t.Errorf("sent %d times", n)
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
			call.Want(t, "the response").Body.Close()
			peer.Ignore(wire.RSTStream)
		})
	}
}

// A priority counts towards the size of the request's header.
func TestPriorityCountsTowardsTheHeaderSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := hyper.Request{NoDefaultFields: true}
		size := uint32(len(":methodGET:schemehttp:authorityexample.com:path/") + 4*32)
		peer, conn := dialPeer(t, &requestConfig,
			wire.Setting{ID: wire.SettingMaxHeaderListSize, Value: size})
		call := doAsync(context.Background(), conn, &req)
		peer.WantHeaders("it fits exactly", 1)
		h2test.AnswerEmpty(peer, 1)
		call.Want(t, "the response").Body.Close()
		req.Priority = at(1)
		_, err := conn.Do(context.Background(), &req)
		var re *hyper.RequestError
		if !errors.As(err, &re) || re.Field != "header" {
			t.Error(err)
		}
	})
}

func TestPriorityOutOfRangeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, noRFC7540)
		var re *hyper.RequestError
		_, err := conn.Do(context.Background(), &hyper.Request{Priority: hyper.Priority{Urgency: 8}})
		if !errors.As(err, &re) || re.Field != "priority" {
			t.Error(err)
		}
		peer.WantIdle("nothing is sent")
		s := openPut(t, peer, conn, 1, hyper.Priority{})
		err = s.SetPriority(hyper.Priority{Urgency: 127})
		if !errors.As(err, &re) || re.Field != "priority" {
			t.Error(err)
		}
		peer.WantIdle("nothing is sent")
	})
}

// openPut opens a stream of a request with priority p, whose body the caller writes.
func openPut(t *testing.T, peer *h2test.Peer, conn *hyper.Conn, id uint32,
	p hyper.Priority) *hyper.Stream {
	t.Helper()
	s, err := conn.Open(context.Background(), &hyper.Request{Method: "PUT", Priority: p})
	if err != nil {
		t.Fatal(err)
	}
	peer.WantHeaders("the request", id)
	return s
}

// wantPriorityUpdate takes a PRIORITY_UPDATE for a stream (RFC 9218 §7.1).
func wantPriorityUpdate(t *testing.T, peer *h2test.Peer, stream uint32, value string) {
	t.Helper()
	f := peer.WantFrame("the new priority", wire.PriorityUpdate)
	got, want := string(f.Payload), "\x00\x00\x00"+string(rune(stream))+value
	if f.StreamID != 0 || got != want {
		t.Errorf("on stream %d: %q, want %q", f.StreamID, got, want)
	}
}

func TestSetPrioritySendsPriorityUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, noRFC7540)
		s := openPut(t, peer, conn, 1, hyper.Priority{})
		for _, p := range []hyper.Priority{at(0), parts(at(7)), {}} {
			if err := s.SetPriority(p); err != nil {
				t.Error(err)
			}
			wantPriorityUpdate(t, peer, 1, p.String())
		}
		get := doAsync(context.Background(), conn, &hyper.Request{})
		peer.WantHeaders("a request without a body", 3)
		peer.WriteHeaders(3, 0, ":status: 200")
		resp := get.Want(t, "the response")
		resp.Stream().SetPriority(at(5))
		wantPriorityUpdate(t, peer, 3, "u=5")
		peer.WriteData(3, wire.EndStream, nil)
		synctest.Wait()
		if err := resp.Stream().SetPriority(at(1)); err != nil {
			t.Error(err)
		}
		peer.WantIdle("the stream has ended")
		conn.Close()
		if err := s.SetPriority(at(1)); !errors.Is(err, hyper.ErrClosed) {
			t.Error(err)
		}
	})
}

// A push has a priority, too.
func TestSetPriorityOfAPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, KeepAlive: -1,
			Authority: "example.com"}, noRFC7540)
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":authority: example.com", ":path: /p")
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := call.Want(t, "the response")
		for push, err := range resp.Pushes(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			peer.WriteHeaders(2, 0, ":status: 200")
			pushed, err := push.Response(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			pushed.Stream().SetPriority(at(6))
			break
		}
		wantPriorityUpdate(t, peer, 2, "u=6")
	})
}

// RFC 9218 §2.1.1: a client stops sending PRIORITY_UPDATE if the server's SETTINGS do not have
// NO_RFC7540_PRIORITIES=1. Before the SETTINGS, it sends them.
func TestPriorityUpdateObeysTheSetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, settings := range [][]wire.Setting{nil, {{ID: wire.SettingNoRFC7540Priorities, Value: 0}}} {
			peer, conn, _ := newPeer(t, &hyper.Config{KeepAlive: -1})
			s, err := conn.Open(context.Background(), &hyper.Request{Method: "PUT"})
			if err != nil {
				t.Fatal(err)
			}
			peer.Ignore(wire.WindowUpdate)
			peer.WantPreface("the preface")
			peer.WantHeaders("the request", 1)
			s.SetPriority(at(1))
			wantPriorityUpdate(t, peer, 1, "u=1")
			peer.WriteSettings(settings...)
			peer.WantSettingsAck("the SETTINGS")
			if err := s.SetPriority(at(2)); err != nil {
				t.Error(err)
			}
			peer.WantIdle("the peer does not use it")
			conn.Close()
		}
	})
}

// uploadsInOrder sends one body of three frames for each priority, and returns the streams of the
// DATA frames in their order, with "a" for the first body. before is called when all of them wait
// for the connection's window.
func uploadsInOrder(t *testing.T, ps []hyper.Priority,
	before func(peer *h2test.Peer, streams []*hyper.Stream)) string {
	t.Helper()
	peer, conn := dialPeer(t, nil, noRFC7540)
	filler := openPut(t, peer, conn, 1, hyper.Priority{})
	filler.Write(make([]byte, wire.InitialWindow))
	filler.CloseWrite()
	peer.WantBody("the connection's window", 1, make([]byte, wire.InitialWindow))
	var streams []*hyper.Stream
	for i, p := range ps {
		s := openPut(t, peer, conn, uint32(2*i+3), p)
		streams = append(streams, s)
		go func() {
			s.Write(make([]byte, 3*wire.MinMaxFrameSize))
			s.CloseWrite()
		}()
		synctest.Wait()
	}
	if before != nil {
		before(peer, streams)
	}
	peer.WantIdle("the connection's window is used up")
	peer.WriteWindowUpdate(0, 1<<20)
	var order strings.Builder
	for range 3 * len(ps) {
		f := peer.WantFrame("a part of a body", wire.Data)
		for f.Length == 0 { // an end
			f = peer.WantFrame("a part of a body", wire.Data)
		}
		order.WriteByte('a' + byte(f.StreamID-3)/2)
	}
	conn.Close()
	return order.String()
}

// RFC 9218 §10: urgent bodies first; at one urgency, incremental ones share, and others are sent in
// the order of their streams. Bodies without a priority take turns, as if there were no priorities.
func TestUploadsAreSentByPriority(t *testing.T) {
	none := hyper.Priority{}
	for want, ps := range map[string][]hyper.Priority{
		"abcabcabc":    {none, none, none},
		"bbbaaaccc":    {at(1), at(0), at(7)},
		"aaabbbccc":    {at(5), at(5), at(5)},
		"abcabcabc ":   {parts(at(5)), parts(at(5)), parts(at(5))},
		"bbbacacac":    {none, at(2), parts(at(3))},
		"cccababab":    {none, parts(none), at(2)},
		"abcabcabcddd": {none, at(3), none, at(3)},
		"abababcccddd": {at(0), parts(at(0)), at(6), at(6)},
		"cdcdcdaaabbb": {at(4), at(4), parts(at(0)), at(0)},
	} {
		t.Run(fmt.Sprint(ps), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, want := uploadsInOrder(t, ps, nil), strings.TrimSpace(want)
				if got != want {
					t.Errorf("sent %s, want %s", got, want)
				}
			})
		})
	}
}

// SetPriority moves a body that waits.
func TestSetPriorityMovesAnUpload(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []hyper.Priority
		change func(streams []*hyper.Stream)
		want   string
	}{
		{"the last becomes urgent", []hyper.Priority{{}, {}, {}},
			func(s []*hyper.Stream) { s[2].SetPriority(at(1)) }, "cccababab"},
		{"the first becomes background", []hyper.Priority{at(1), at(1), at(1)},
			func(s []*hyper.Stream) { s[0].SetPriority(at(7)) }, "bbbcccaaa"},
		{"one that waits in order becomes incremental", []hyper.Priority{at(1), at(1), at(1)},
			func(s []*hyper.Stream) { s[1].SetPriority(parts(at(1))) }, "abababccc"},
		{"all say nothing any more", []hyper.Priority{at(1), at(7), at(5)},
			func(s []*hyper.Stream) {
				for _, s := range s {
					s.SetPriority(hyper.Priority{})
				}
			}, "abcabcabc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := uploadsInOrder(t, test.before, func(peer *h2test.Peer, streams []*hyper.Stream) {
					peer.Ignore(wire.PriorityUpdate)
					test.change(streams)
				})
				if got != test.want {
					t.Errorf("sent %s, want %s", got, test.want)
				}
			})
		})
	}
}

// A priority field in the header of an http.Request orders its upload, too.
func TestUploadsOfHTTPRequestsAreSentByPriority(t *testing.T) {
	eachHTTPDoor(t, func(t *testing.T, v *visit) {
		first := v.send(v.request("PUT", "/", bytes.NewReader(make([]byte, wire.InitialWindow))))
		peer := v.accept()
		peer.WantHeaders("the first request", 1)
		peer.WantBody("the connection's window", 1, make([]byte, wire.InitialWindow))
		for i, value := range []string{"u=6", "", "u=1"} {
			req := v.request("PUT", "/", bytes.NewReader(make([]byte, 1000)))
			if value != "" {
				req.Header.Set("Priority", value)
			}
			v.send(req)
			peer.WantHeaders("a request", uint32(2*i+3))
		}
		synctest.Wait()
		peer.WriteWindowUpdate(0, 1<<20)
		for _, id := range []uint32{7, 5, 3} {
			peer.WantData("the most urgent first", id, wire.EndStream, 1000)
		}
		for id := uint32(1); id <= 7; id += 2 {
			h2test.AnswerEmpty(peer.Peer, id)
		}
		first.Want(t, "the response").Body.Close()
	})
}

// An urgent body that is blocked by its own window does not hold others up.
func TestBlockedUrgentUploadDoesNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 0})
		urgent := openPut(t, peer, conn, 1, at(0))
		go urgent.Write([]byte("urgent"))
		next := openPut(t, peer, conn, 3, at(0))
		go next.Write([]byte("next"))
		other := openPut(t, peer, conn, 5, at(7))
		go other.Write([]byte("other"))
		synctest.Wait()
		peer.WriteWindowUpdate(5, 100)
		peer.WantData("the only one with window", 5, 0, 5)
		peer.WriteWindowUpdate(3, 100)
		peer.WantData("one that follows in order", 3, 0, 4)
		peer.WriteWindowUpdate(1, 100)
		peer.WantData("the first at last", 1, 0, 6)
	})
}
