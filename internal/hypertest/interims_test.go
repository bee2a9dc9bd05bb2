package hypertest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// withHooks returns req with hooks of net/http/httptrace that count interim responses in seen.
func withHooks(req *http.Request, seen *int) *http.Request {
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			*seen++
			return nil
		},
	}))
}

// A server may report the progress of an upload with interim responses. Those that a hook reads are
// not limited in number.
func TestInterimResponsesThatAreLookedAtHaveNoLimit(t *testing.T) {
	const number = 250 // of 1 KiB: above the limits of 100 responses and 64 KiB
	for _, hooks := range []bool{true, false} {
		name := "dropped"
		if hooks {
			name = "looked at"
		}
		t.Run(name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				seen := 0
				body, upload := io.Pipe()
				req := v.request("POST", "/", body)
				if hooks {
					req = withHooks(req, &seen)
				}
				call := v.send(req)
				peer := v.accept()
				peer.Ignore(wire.WindowUpdate)
				peer.WantHeaders("the upload", 1)
				for range number {
					upload.Write([]byte("x"))
					peer.WantData("a part", 1, 0, 1)
					peer.WriteHeaders(1, 0, ":status: 102", "x-progress: "+strings.Repeat("v", 1000))
					peer.WantIdle("it is taken")
				}
				upload.Close()
				peer.WantData("the end", 1, wire.EndStream, 0)
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				call.Want(t, "the response").Body.Close()
				if hooks && !v.own && seen != number {
					t.Errorf("%d interim responses were shown, want %d", seen, number)
				}
			})
		})
	}
}

func TestInformationalSeesAnyNumberOfInterimResponses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const number = 250
		seen := 0
		peer, conn := dialPeer(t, nil)
		call := doAsync(context.Background(), conn,
			&hyper.Request{Informational: func(int, hyper.Header) error {
				seen++
				return nil
			}})
		peer.WantHeaders("the request", 1)
		for range number {
			peer.WriteHeaders(1, 0, ":status: 103", "link: "+strings.Repeat("v", 1000))
			peer.WantIdle("it is taken")
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		call.Want(t, "the response")
		if seen != number {
			t.Errorf("%d interim responses were shown, want %d", seen, number)
		}
	})
}

// Without a hook, a burst of interim responses is dropped as it arrives, as in net/http.
func TestBurstOfInterimResponsesIsDroppedWithoutAHook(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		req := v.request("GET", "/", nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(),
			&httptrace.ClientTrace{WroteHeaders: func() {}}))
		call := v.send(req)
		peer := v.accept()
		v.wantGet(peer, 1)
		peer.Batch(func() {
			for range 500 {
				peer.WriteHeaders(1, 0, ":status: 103", "link: </style.css>")
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		})
		call.Want(t, "the response").Body.Close()
	})
}

func TestInterimResponsesThatWaitHaveALimit(t *testing.T) {
	for name, c := range map[string]struct {
		value   string
		allowed int
	}{
		"number": {"v", 100},
		"size":   {strings.Repeat("v", 8<<10), 7}, // of slightly more than 8 KiB; the limit is 64 KiB
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				stream, err := conn.Open(t.Context(),
					&hyper.Request{Informational: func(int, hyper.Header) error { return nil }})
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				for range c.allowed {
					peer.WriteHeaders(1, 0, ":status: 103", "x: "+c.value)
				}
				peer.WantIdle("so many may wait")
				peer.WriteHeaders(1, 0, ":status: 103", "x: "+c.value)
				peer.WantRSTStream("and no more", 1, wire.ProtocolError)
				_, err = stream.Response(t.Context())
				wantMalformed(t, "too many wait", err)
			})
		})
	}
}

// The budget for frames without content is 10,000 frames, plus 330 each second.
func TestEndlessInterimResponsesAreBoundedByTime(t *testing.T) {
	for _, c := range []struct {
		name  string
		pause time.Duration
		calm  bool
	}{
		{"without a pause", 0, false},
		{"every 4 ms", 4 * time.Millisecond, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seen := 0
				peer, conn := dialPeer(t, &hyper.Config{KeepAlive: -1})
				call := doAsync(context.Background(), conn,
					&hyper.Request{Informational: func(int, hyper.Header) error {
						seen++
						return nil
					}})
				peer.WantHeaders("the request", 1)
				sent := 0
				for ; sent < 25_000 && conn.Err() == nil; sent++ {
					time.Sleep(c.pause)
					peer.WriteHeaders(1, 0, ":status: 102")
					synctest.Wait()
				}
				if c.calm {
					peer.WriteHeaders(1, wire.EndStream, ":status: 200")
					call.Want(t, "the response")
					if seen != sent {
						t.Errorf("%d were shown of %d", seen, sent)
					}
					return
				}
				peer.WantGoAway("an endless sequence", 0, wire.EnhanceYourCalm)
				if err := call.WantErr(t, "the connection has ended"); !errors.Is(err,
					hyper.ErrCodeEnhanceYourCalm) {
					t.Error(err)
				}
				if sent < 10_000 || sent > 10_100 {
					t.Errorf("it ended after %d interim responses", sent)
				}
			})
		})
	}
}

// A few interim responses in each of many short exchanges do not count as a flood.
func TestEarlyHintsOfEachResponseAreNoFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for i := range uint32(3_000) {
			call := getAsync(conn, "/")
			peer.WantHeaders("the request", 2*i+1)
			peer.Batch(func() {
				for range 5 {
					peer.WriteHeaders(2*i+1, 0, ":status: 103")
				}
				peer.WriteHeaders(2*i+1, wire.EndStream, ":status: 204")
			})
			call.Want(t, "the response")
		}
	})
}
