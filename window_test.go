package hyper

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A windowLog records the events of a connection's managers in order, one in a line.
type windowLog struct{ lines []string }

// managers returns a factory of managers that record their events and return what answer returns.
// If answer is nil, they return 0.
func (l *windowLog) managers(answer func(w *Window, ev WindowEvent) int) WindowManagerFactory {
	return func(w *Window) WindowManager {
		return WindowManagerFunc(func(ev WindowEvent) int {
			l.lines = append(l.lines, fmt.Sprintf("%d %v", w.StreamID(), eventText(ev)))
			if answer == nil {
				return 0
			}
			return answer(w, ev)
		})
	}
}

// eventText returns all of an event except for its time, without fields that are 0.
func eventText(ev WindowEvent) string {
	text := ev.Kind.String()
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"bytes", int64(ev.Bytes)}, {"padding", int64(ev.Padding)}, {"credit", int64(ev.Credit)},
		{"unread", int64(ev.Unread)}, {"total", ev.Total}, {"length", ev.Length},
	} {
		if f.value != 0 {
			text += fmt.Sprintf(" %s=%d", f.name, f.value)
		}
	}
	if ev.End {
		text += " END"
	}
	return text
}

// want requires that these are the events since the last call of want.
func (l *windowLog) want(t *testing.T, reason string, want ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(l.lines, want) {
		t.Fatalf("%s: events\n\t%s\nwant\n\t%s", reason, strings.Join(l.lines, "\n\t"),
			strings.Join(want, "\n\t"))
	}
	l.lines = nil
}

func readOctets(t *testing.T, body io.Reader, n int) {
	t.Helper()
	if got, err := io.ReadFull(body, make([]byte, n)); err != nil {
		t.Fatalf("read %d of %d octets: %v", got, n, err)
	}
}

func TestWindowManagersHearOfEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &Config{WindowManager: log.managers(nil)})
		log.want(t, "the connection is opened first, and the answer to our SETTINGS is a round trip",
			"0 Opened credit=65535 length=-1",
			"0 RTT credit=65535 length=-1")
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		log.want(t, "a request", "1 Opened credit=65535 length=-1")
		peer.WriteHeaders(1, 0, ":status: 200", "content-length: 10")
		log.want(t, "its length is known", "1 Headers credit=65535 length=10")
		resp := got.want(t, "the response")
		peer.WritePaddedData(1, 0, []byte("123456"), 3)
		log.want(t, "padding counts and is consumed at once; the connection is first",
			"0 Data bytes=10 padding=4 credit=65525 unread=10 total=10 length=-1",
			"0 Consumed bytes=4 credit=65525 unread=6 total=10 length=-1",
			"1 Data bytes=10 padding=4 credit=65525 unread=10 total=10 length=4",
			"1 Consumed bytes=4 credit=65525 unread=6 total=10 length=4")
		readOctets(t, resp.Body, 2)
		readOctets(t, resp.Body, 4)
		log.want(t, "each Read",
			"0 Consumed bytes=2 credit=65525 unread=4 total=10 length=-1",
			"1 Consumed bytes=2 credit=65525 unread=4 total=10 length=4",
			"0 Consumed bytes=4 credit=65525 total=10 length=-1",
			"1 Consumed bytes=4 credit=65525 total=10 length=4")
		peer.WriteData(1, wire.EndStream, []byte("7890"))
		log.want(t, "the end",
			"0 Data bytes=4 credit=65521 unread=4 total=14 length=-1 END",
			"1 Data bytes=4 credit=65521 unread=4 total=14 END")
		wantBody(t, "the rest", resp.Body, "7890")
		log.want(t, "nothing is held any more",
			"0 Consumed bytes=4 credit=65521 total=14 length=-1",
			"1 Consumed bytes=4 credit=65521 total=14",
			"1 Closed credit=65521 total=14 length=-1")
		conn.Close()
		log.want(t, "and the connection's end", "0 Closed credit=65521 total=14 length=-1")
		peer.WantGoAway("no manager asked for anything", 0, wire.NoError)
	})
}

func TestWindowOfAnEmptyResponseClosesAtItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &Config{WindowManager: log.managers(nil)})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.want(t, "the response")
		log.want(t, "all of it",
			"0 Opened credit=65535 length=-1",
			"0 RTT credit=65535 length=-1",
			"1 Opened credit=65535 length=-1",
			"1 Headers credit=65535 length=-1",
			"1 Closed credit=65535 length=-1")
	})
}

func TestWindowOfABodyCutShortClosesOnceItWasRead(t *testing.T) {
	for _, came := range []int{0, 3} {
		synctest.Test(t, func(t *testing.T) {
			var log windowLog
			peer, conn := dialPeer(t, &Config{WindowManager: log.managers(nil)})
			resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 5")
			peer.WriteData(1, wire.EndStream, make([]byte, came))
			peer.WantRSTStream("less than 5", 1, wire.ProtocolError)
			n, err := io.Copy(io.Discard, resp.Body)
			if int(n) != came || !errors.Is(err, ErrCodeProtocol) {
				t.Errorf("read %d, %v", n, err)
			}
			synctest.Wait()
			if last := log.lines[len(log.lines)-1]; !strings.HasPrefix(last, "1 Closed") {
				t.Errorf("the last event is %s", last)
			}
		})
	}
}

func TestDroppedAndLateOctetsAreConsumedByTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &Config{WindowManager: log.managers(nil)})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 100))
		synctest.Wait()
		log.lines = nil
		resp.Body.Close()
		log.want(t, "what was unread",
			"1 Closed credit=65435 total=100 length=-1",
			"0 Consumed bytes=100 credit=65435 total=100 length=-1")
		peer.WritePaddedData(1, 0, make([]byte, 10), 1)
		log.want(t, "what is late",
			"0 Data bytes=12 padding=2 credit=65423 unread=12 total=112 length=-1",
			"0 Consumed bytes=2 credit=65423 unread=10 total=112 length=-1",
			"0 Consumed bytes=10 credit=65423 total=112 length=-1")
	})
}

func TestStarvedManagersHearOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		help := false
		peer, conn := dialPeer(t, &Config{InitialStreamWindow: 1 << 20,
			WindowManager: log.managers(func(_ *Window, ev WindowEvent) int {
				if ev.Kind == WindowBlocked && help {
					return 5
				}
				return 0
			})})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		for range 5 {
			peer.WriteData(1, 0, make([]byte, wire.InitialWindow/5))
		}
		readOctets(t, resp.Body, wire.InitialWindow)
		log.lines = nil
		resp.Stream().SetReadDeadline(time.Now().Add(time.Second))
		resp.Body.Read(make([]byte, 1))
		log.want(t, "the connection's window is empty", "0 Blocked total=65535 length=-1")
		resp.Stream().SetReadDeadline(time.Time{})
		help = true
		go resp.Body.Read(make([]byte, 1))
		peer.WantWindowUpdate("the manager's answer", 0, 5)
		peer.WantIdle("and nothing else")
	})
}

func TestStreamStarvesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{InitialStreamWindow: 10,
			WindowManager: func(*Window) WindowManager {
				return WindowManagerFunc(func(ev WindowEvent) int {
					if ev.Kind == WindowBlocked {
						return 7
					}
					return 0
				})
			}})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		readOctets(t, resp.Body, 10)
		peer.WantIdle("no call waits")
		go io.ReadAll(resp.Body)
		peer.WantWindowUpdate("now a call waits", 1, 7)
		peer.WriteData(1, 0, make([]byte, 7))
		peer.WantWindowUpdate("and again", 1, 7)
		peer.WriteData(1, wire.EndStream, nil)
		peer.WantIdle("until the end")
	})
}

func TestSettingsMoveWindowsAndSayBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &Config{WindowManager: log.managers(nil)})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 60000))
		synctest.Wait()
		log.lines = nil
		for _, size := range []uint32{66535, 10} {
			done := make(chan error)
			go func() { done <- conn.UpdateSettings(t.Context(), Setting{SettingInitialWindowSize, size}) }()
			peer.WantFrame("SETTINGS", wire.Settings)
			log.want(t, "not before the peer has acknowledged")
			peer.WriteSettingsAck()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			log.lines = slices.DeleteFunc(log.lines,
				func(s string) bool { return strings.HasPrefix(s, "0 RTT") })
			if size > 60000 {
				log.want(t, "larger", "1 Settings bytes=1000 credit=6535 unread=60000 total=60000 length=-1")
			} else {
				log.want(t, "smaller than what came already",
					"1 Settings bytes=-66525 credit=-59990 unread=60000 total=60000 length=-1")
			}
		}
		resp.Body.Close()
	})
}

func TestClockAndRoundTripsReachTheManagers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		peer, conn, _ := newPeer(t, &Config{WindowManager: func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				if ev.Kind != WindowConsumed {
					seen = append(seen, fmt.Sprint(w.StreamID(), " ", ev.Kind, " now=", ev.Now, " rtt=",
						ev.RTT))
				}
				return 0
			})
		}})
		peer.WantPreface("it leaves after the cork's delay")
		time.Sleep(30 * time.Millisecond)
		peer.WriteSettings()
		peer.WriteSettingsAck()
		peer.WantSettingsAck("of ours")
		for _, rtt := range []time.Duration{20, 50} {
			done := make(chan time.Duration)
			go func() {
				d, _ := conn.Ping(t.Context())
				done <- d
			}()
			data := peer.WantPing("the caller's", 0)
			time.Sleep(rtt * time.Millisecond)
			peer.WritePing(wire.Ack, data)
			if got := <-done; got != rtt*time.Millisecond {
				t.Errorf("Ping: %v, want %d ms", got, rtt)
			}
		}
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		time.Sleep(time.Second)
		peer.WriteData(1, 0, []byte("x"))
		synctest.Wait()
		want := []string{
			"0 Opened now=0s rtt=0s",
			"0 RTT now=35ms rtt=30ms",
			"0 RTT now=55ms rtt=20ms",
			"0 RTT now=105ms rtt=50ms",
			"1 Opened now=105ms rtt=20ms",
			"1 Headers now=105ms rtt=20ms",
			"0 Data now=1.105s rtt=20ms",
			"1 Data now=1.105s rtt=20ms",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("seen\n\t%s\nwant\n\t%s", strings.Join(seen, "\n\t"), strings.Join(want, "\n\t"))
		}
		resp.Body.Close()
	})
}

func TestWakeAfterTicksOnceAndNotBehindTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks []string
		peer, conn := dialPeer(t, &Config{WindowManager: func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				switch {
				case ev.Kind == WindowTick:
					ticks = append(ticks, fmt.Sprint(w.StreamID(), " ", ev.Now))
					return 100
				case ev.Kind == WindowOpened && w.StreamID() > 0:
					w.WakeAfter(3 * time.Second)
					w.WakeAfter(2 * time.Second) // replaces the first
				}
				return 0
			})
		}})
		first := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WantWindowUpdate("the tick's answer", 1, 100)
		time.Sleep(5 * time.Second)
		second := getAsync(conn, "/")
		peer.WantHeaders("the request", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 200")
		second.want(t, "over before its tick")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if want := []string{"1 2.005s"}; !slices.Equal(ticks, want) {
			t.Errorf("ticks %q, want %q", ticks, want)
		}
		peer.WantIdle("one tick, one answer")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		first.want(t, "the response")
	})
}

// This is the example of python hyper's guide, written as in the documentation.
func TestStupidManagerReopensByWhatCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stupid := func(*Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int { return ev.Received() })
		}
		peer, conn := dialPeer(t, &Config{WindowManager: stupid})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		for _, n := range []int{1, 1000, 16384} {
			peer.WriteData(1, 0, make([]byte, n))
			peer.WantWindowUpdate("the connection's first", 0, n)
			peer.WantWindowUpdate("then the stream's", 1, n)
		}
		peer.WritePaddedData(1, 0, nil, 9)
		peer.WantWindowUpdate("padding counts", 0, 10)
		peer.WantWindowUpdate("padding counts", 1, 10)
		readOctets(t, resp.Body, 17385)
		peer.WantIdle("reading changes nothing")
		resp.Body.Close()
	})
}

// Python hyper's rule is: below a quarter, or below 1,000, the window is reset to its initial size.
func TestFixedIsPythonsRule(t *testing.T) {
	for _, c := range []struct{ size, credit, want int }{
		{65535, 65535, 0},
		{65535, 16384, 0},
		{65535, 16383, 49152}, // a quarter is 16,383.75
		{65535, 1000, 64535},
		{65535, 0, 65535},
		{65535, -10, 65545},
		{65535, 99999, 0},
		{4000, 1000, 0},
		{4000, 999, 3001},
		{3000, 1000, 0},
		{3000, 999, 2001},
		{3000, 0, 3000},
		{100, 100, 0},
		{100, 99, 1},
		{100, 0, 100},
		{0, 0, 65535},
	} {
		m := FixedWindow{c.size}.New(nil)
		for _, kind := range []WindowEventKind{WindowData, WindowSettings, WindowBlocked} {
			if got := m.Update(WindowEvent{Kind: kind, Credit: c.credit}); got != c.want {
				t.Errorf("Fixed{%d} answers %d to %v with credit %d, want %d", c.size, got, kind, c.credit,
					c.want)
			}
		}
		if got := m.Update(WindowEvent{Kind: WindowConsumed, Bytes: 1, Credit: c.credit}); got != 0 {
			t.Errorf("Fixed{%d} answers %d to Consumed", c.size, got)
		}
	}
}

func TestFixedOpensAtItsSizeAndReopensUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _, _ := newPeer(t, &Config{WindowManager: FixedWindow{100_000}.New})
		peer.WantPreface("first")
		peer.WantWindowUpdate("the connection", 0, 100_000-65535)
	})
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: FixedWindow{}.New})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		for range 3 {
			peer.WriteData(1, 0, make([]byte, 16383))
		}
		peer.WriteData(1, 0, make([]byte, 2))
		peer.WantIdle("16,384 octets are left")
		peer.WriteData(1, 0, make([]byte, 1))
		peer.WantWindowUpdate("16,383 are left", 0, 49152)
		peer.WantWindowUpdate("nothing was read", 1, 49152)
		resp.Body.Close()
	})
}

func TestManualGrantsAtHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: ReadWindow{Stream: 65536, Connection: 131072}.New})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WantWindowUpdate("what the settings leave out", 1, 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := got.want(t, "the response")
		for range 4 {
			peer.WriteData(1, 0, make([]byte, 16384))
		}
		peer.WantIdle("unread octets keep it closed")
		readOctets(t, resp.Body, 32767)
		peer.WantIdle("less than half")
		readOctets(t, resp.Body, 1)
		peer.WantWindowUpdate("half the window was read", 1, 32768)
		readOctets(t, resp.Body, 32768)
		peer.WantWindowUpdate("half of the connection's", 0, 65536)
		peer.WantWindowUpdate("and of the stream's again", 1, 32768)
		peer.WantIdle("and nothing else")
		resp.Body.Close()
	})
}

func TestManualNeverGrantsPastAKnownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{InitialStreamWindow: 10_000,
			WindowManager: ReadWindow{Stream: 10_000}.New})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 12000")
		peer.WriteData(1, 0, make([]byte, 5000))
		readOctets(t, resp.Body, 5000)
		peer.WantWindowUpdate("5,000 are granted and 7,000 due, and room for END_STREAM", 1, 2001)
		peer.WriteData(1, 0, make([]byte, 7000-1))
		readOctets(t, resp.Body, 7000-1)
		peer.WantIdle("the rest fits")
		peer.WriteData(1, wire.EndStream, make([]byte, 1))
		wantBody(t, "to its end", resp.Body, "\x00")
	})
}

func TestManualAnswersAStarvedReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{InitialStreamWindow: 10, WindowManager: ReadWindow{Stream: 10}.New})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 12")
		peer.WritePaddedData(1, 0, make([]byte, 4), 1)
		readOctets(t, resp.Body, 4)
		peer.WantWindowUpdate("half of it is consumed, 8 are due, 4 granted, and room for END_STREAM", 1, 5)
		peer.WritePaddedData(1, 0, make([]byte, 4), 4) // all that was granted
		readOctets(t, resp.Body, 4)
		peer.WantWindowUpdate("padding must not stop the rest", 1, 5)
		peer.WriteData(1, wire.EndStream, make([]byte, 4))
		wantBody(t, "to its end", resp.Body, "\x00\x00\x00\x00")
	})
}

func TestRateLimitedHoldsItsRate(t *testing.T) {
	const rate = 1 << 20
	for _, c := range []struct {
		rtt, burst int // in ms and in bytes
	}{{0, rate / 4}, {20, rate / 4}, {300, rate}} {
		t.Run(fmt.Sprintf("%d ms", c.rtt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{WindowManager: RateLimitedWindow{PerSecond: rate,
					Burst: c.burst}.New})
				resp := answerGet(t, peer, conn, 1, ":status: 200")
				go io.Copy(io.Discard, resp.Body)
				var granted []int // by millisecond
				sent, at2 := 0, 0
				for ms := range 12_000 {
					synctest.Wait()
					granted = append(granted, sent+peer.Credit(1))
					if ms >= c.rtt {
						for due := granted[ms-c.rtt] - sent; due > 0; due = granted[ms-c.rtt] - sent {
							n := min(due, 16384)
							peer.WriteData(1, 0, make([]byte, n))
							sent += n
						}
					}
					// An eighth of a second of the rate may be sent to catch up.
					if most := int64(c.burst) + rate/8 + int64(rate)*int64(ms+1)/1000; int64(sent) > most {
						t.Fatalf("%d octets in %d ms, want %d at most", sent, ms+1, most)
					}
					if ms == 2000 {
						at2 = sent
					}
					time.Sleep(time.Millisecond)
				}
				if got := float64(sent-at2) / 10 / rate; got < 0.95 || got > 1.05 {
					t.Errorf("%.3f of the rate", got)
				}
				resp.Body.Close()
			})
		})
	}
}

func TestRateLimitedStopsAtAKnownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{InitialStreamWindow: 1000,
			WindowManager: RateLimitedWindow{PerSecond: 4000}.New})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 1100")
		peer.WriteData(1, 0, make([]byte, 1000))
		readOctets(t, resp.Body, 1000)
		peer.WantWindowUpdate("what is due, and room for END_STREAM", 1, 101)
		peer.WriteData(1, wire.EndStream, make([]byte, 100))
		readOctets(t, resp.Body, 100)
		peer.WantIdle("nothing more")
	})
}

func TestRequestWindowManagerOverridesTheConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		req := &Request{Path: "/own"}
		own := log.managers(func(w *Window, ev WindowEvent) int {
			if w.Request() != req || w.StreamID() != 1 {
				t.Errorf("stream %d, request %v", w.StreamID(), w.Request())
			}
			if fixed, ok := w.ConnManager().(FixedWindow); !ok || fixed.Size != 65535 {
				t.Errorf("the connection's manager is %v", w.ConnManager())
			}
			return ev.Received()
		})
		req.WindowManager = own
		peer, conn := dialPeer(t, &Config{WindowManager: FixedWindow{}.New})
		got := doAsync(t.Context(), conn, req)
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		peer.WantWindowUpdate("by its own manager", 1, 10)
		log.want(t, "of this stream alone",
			"1 Opened credit=65535 length=-1",
			"1 Headers credit=65535 length=-1",
			"1 Data bytes=10 credit=65525 unread=10 total=10 length=-1")
		got.want(t, "the response").Body.Close()
	})
}

func TestFactoryIsAskedForTheConnectionFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		peer, conn := dialPeer(t, &Config{WindowManager: func(w *Window) WindowManager {
			asked = append(asked, fmt.Sprint(w.StreamID(), w.Request() != nil, w.ConnManager() != nil))
			return FixedWindow{}.New(w)
		}})
		for id := uint32(1); id < 5; id += 2 {
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200")
			got.want(t, "the response")
		}
		if want := []string{"0 false false", "1 true true", "3 true true"}; !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
	})
}

// windowHandles returns a factory without managers. The windows change only by Grant.
func windowHandles() (WindowManagerFactory, map[uint32]*Window) {
	handles := map[uint32]*Window{}
	return func(w *Window) WindowManager {
		handles[w.StreamID()] = w
		return nil
	}, handles
}

func TestWindowWithoutManagerMovesByGrantAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn := dialPeer(t, &Config{WindowManager: factory, InitialStreamWindow: 10})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		readOctets(t, resp.Body, 10)
		go resp.Body.Read(make([]byte, 1))
		peer.WantIdle("nothing is granted")
		windows[1].Grant(5)
		peer.WantWindowUpdate("from another goroutine", 1, 5)
		windows[0].Grant(6)
		peer.WantWindowUpdate("the connection's", 0, 6)
		windows[1].Grant(0)
		windows[1].Grant(-1)
		peer.WantIdle("that is nothing")
		peer.WriteData(1, wire.EndStream, make([]byte, 5))
		synctest.Wait()
		windows[1].Grant(5)
		peer.WantIdle("the stream has ended")
		conn.Close()
		windows[0].Grant(5)
		peer.WantGoAway("and then the connection", 0, wire.NoError)
		peer.WantClosed("so nothing more comes")
	})
}

func TestGrantInsideUpdateFollowsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &Config{WindowManager: log.managers(func(w *Window, ev WindowEvent) int {
			if w.StreamID() == 0 || ev.Kind != WindowData {
				return 0
			}
			w.Grant(3)
			w.Grant(4)
			return 10
		})})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 100))
		peer.WantWindowUpdate("in one frame", 1, 17)
		resp.Body.Close()
	})
}

// RFC 9113 §6.9.1: a sender MUST NOT allow a flow-control window to exceed 2^31-1. The scripted
// peer fails the test if that happens.
func TestGrantsAreClampedAtTheLargestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unlimited := func(*Window) WindowManager { return WindowManagerFunc(func(WindowEvent) int { return math.MaxInt32 }) }
		peer, conn, _ := newPeer(t, &Config{WindowManager: unlimited})
		peer.WantPreface("first")
		peer.WantWindowUpdate("all that there can be", 0, wire.MaxWindow-65535)
		peer.WriteSettings()
		peer.WriteSettingsAck()
		peer.WantSettingsAck("theirs")
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WantWindowUpdate("all that there can be", 1, wire.MaxWindow-65535)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 1000))
		peer.WantWindowUpdate("as much as went", 0, 1000)
		peer.WantWindowUpdate("as much as went", 1, 1000)
		got.want(t, "the response").Body.Close()
	})
}

func TestHugeGrantsAreClampedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, _, pipe := newPeer(t, &Config{WindowManager: factory})
		peer.Handshake()
		pipe.SetWriteBuffer(0)
		for range 4 {
			windows[0].Grant(math.MaxInt)
		}
		pipe.SetWriteBuffer(-1)
		peer.WantWindowUpdate("once", 0, wire.MaxWindow-65535)
		peer.WantIdle("and no more")
	})
}

func TestIncrementsBeforeAWriteAreOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn, pipe := newPeer(t, &Config{WindowManager: factory})
		peer.Handshake()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		pipe.SetWriteBuffer(0)
		go conn.Ping(t.Context())
		synctest.Wait() // the PING's write blocks
		for range 10 {
			windows[1].Grant(10)
			windows[0].Grant(20)
			synctest.Wait()
		}
		pipe.SetWriteBuffer(-1)
		peer.AutoPing()
		peer.WantWindowUpdate("ten increments", 1, 100)
		peer.WantWindowUpdate("ten increments", 0, 200)
		peer.WantIdle("and nothing else")
		resp.Body.Close()
	})
}

func TestNoWindowUpdateBehindTheEnd(t *testing.T) {
	always := func(w *Window) WindowManager {
		return WindowManagerFunc(func(ev WindowEvent) int {
			if w.StreamID() == 0 || ev.Kind == WindowOpened || ev.Kind == WindowHeaders {
				return 0
			}
			return 100
		})
	}
	for name, end := range map[string]func(*h2test.Peer){
		"END_STREAM with the data": func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, make([]byte, 10)) },
		"END_STREAM behind it": func(p *h2test.Peer) {
			p.WriteData(1, 0, make([]byte, 10))
			p.WriteData(1, wire.EndStream, nil)
		},
		"RST_STREAM": func(p *h2test.Peer) {
			p.WriteData(1, 0, make([]byte, 10))
			p.WriteRSTStream(1, wire.Cancel)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn, pipe := newPeer(t, &Config{WindowManager: always})
				peer.Handshake()
				resp := answerGet(t, peer, conn, 1, ":status: 200")
				pipe.SetWriteBuffer(0)
				go conn.Ping(t.Context())
				synctest.Wait() // the PING's write blocks, and later grants are not sent
				end(peer)
				synctest.Wait()
				readOctets(t, resp.Body, 10)
				pipe.SetWriteBuffer(-1)
				peer.AutoPing()
				peer.WantIdle(name)
			})
		})
	}
}

func TestNoWindowUpdateBehindOurReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory, windows := windowHandles()
		peer, conn, pipe := newPeer(t, &Config{WindowManager: factory})
		peer.Handshake()
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		pipe.SetWriteBuffer(0)
		go conn.Ping(t.Context())
		synctest.Wait() // the PING's write blocks
		windows[1].Grant(100)
		resp.Body.Close()
		windows[1].Grant(100)
		pipe.SetWriteBuffer(-1)
		peer.AutoPing()
		peer.WantRSTStream("it is not read", 1, wire.Cancel)
		peer.WantIdle("and no more is wanted")
	})
}

func TestMisbehavingManagerEndsItsStreamAlone(t *testing.T) {
	for kind := WindowOpened; kind < WindowClosed; kind++ {
		if kind == WindowRTT {
			continue // only the connection's manager is told
		}
		for _, panics := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v panic=%v", kind, panics), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := dialPeer(t, &Config{InitialStreamWindow: 10, WindowManager: giveBack})
					peer.Ignore(wire.WindowUpdate)
					other := getAsync(conn, "/other")
					peer.WantHeaders("another stream", 1)
					got := doAsync(t.Context(), conn, &Request{WindowManager: func(w *Window) WindowManager {
						return misbehaving{w: w, at: kind, panics: panics}
					}})
					peer.WantHeaders("the request", 3)
					go provokeWindowEvents(t, peer, conn, got, kind)
					if kind == WindowSettings {
						peer.WantFrame("a change of the window", wire.Settings)
						peer.WriteSettingsAck()
					}
					peer.WantRSTStream("our fault", 3, wire.InternalError)
					wantManagerError(t, failureOf(got), 3, kind, panics)
					peer.WriteHeaders(1, 0, ":status: 200")
					peer.WriteData(1, wire.EndStream, []byte("unharmed"))
					wantBody(t, "the other stream", other.want(t, "another").Body, "unharmed")
					wantFullCredit(t, peer, "what the stream held")
				})
			})
		}
	}
}

// provokeWindowEvents makes every kind of event happen on stream 3, whose window is 10 bytes.
func provokeWindowEvents(t *testing.T, peer *h2test.Peer, conn *Conn, got *result, kind WindowEventKind) {
	if kind == WindowOpened {
		return
	}
	peer.WriteHeaders(3, 0, ":status: 200")
	if kind == WindowHeaders {
		return
	}
	<-got.done
	if kind == WindowTick {
		return
	}
	if kind == WindowSettings {
		conn.UpdateSettings(t.Context(), Setting{SettingInitialWindowSize, 20})
		return
	}
	peer.WriteData(3, 0, make([]byte, 10))
	if kind != WindowData {
		io.ReadAll(got.resp.Body)
	}
}

// failureOf returns the error with which the exchange ended, of the response or of its body.
func failureOf(r *result) error {
	if <-r.done; r.err != nil {
		return r.err
	}
	_, err := io.ReadAll(r.resp.Body)
	return err
}

type misbehaving struct {
	w      *Window
	at     WindowEventKind
	panics bool
}

func (m misbehaving) Update(ev WindowEvent) int {
	if ev.Kind == WindowOpened && m.at == WindowTick {
		m.w.WakeAfter(time.Second)
	}
	if ev.Kind != m.at {
		return 0
	}
	if m.panics {
		panic("out of paint")
	}
	return -3
}

func wantManagerError(t *testing.T, err error, stream uint32, kind WindowEventKind, panics bool) {
	t.Helper()
	var m *WindowManagerError
	if !errors.As(err, &m) || !errors.Is(err, ErrCodeInternal) {
		t.Fatalf("got %v, want a WindowManagerError with INTERNAL_ERROR", err)
	}
	want := WindowManagerError{StreamID: stream, Event: kind, Value: -3}
	if panics {
		want.Value, want.Panic = 0, "out of paint"
	}
	if m.StreamID != want.StreamID || m.Event != want.Event || m.Value != want.Value ||
		m.Panic != want.Panic {
		t.Errorf("got %+v, want %+v", *m, want)
	}
	if stack := string(m.Stack); strings.Contains(stack, "misbehaving") != panics ||
		strings.Contains(err.Error(), "goroutine") {
		t.Errorf("the stack of the panic: %q, and the text: %v", stack, err)
	}
}

func TestMisbehavingManagerOfTheConnectionEndsIt(t *testing.T) {
	for _, kind := range []WindowEventKind{WindowOpened, WindowRTT, WindowData, WindowConsumed, WindowTick} {
		for _, panics := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v panic=%v", kind, panics), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn, _ := newPeer(t, &Config{WindowManager: func(w *Window) WindowManager {
						if w.StreamID() != 0 {
							return nil
						}
						return misbehaving{w: w, at: kind, panics: panics}
					}})
					peer.WantPreface("whatever comes")
					got := getAsync(conn, "/")
					peer.Ignore(wire.Settings, wire.Headers)
					synctest.Wait()
					peer.WriteSettings()
					peer.WriteSettingsAck()
					peer.WriteHeaders(1, 0, ":status: 200")
					peer.WriteData(1, 0, make([]byte, 10))
					if kind == WindowConsumed {
						readOctets(t, got.want(t, "the response").Body, 10)
					}
					peer.WantGoAway("our fault", 0, wire.InternalError)
					peer.WantClosed("and the end")
					wantManagerError(t, conn.Err(), 0, kind, panics)
					wantManagerError(t, failureOf(got), 0, kind, panics)
				})
			})
		}
	}
}

func TestManagersAnswerToClosedIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: func(w *Window) WindowManager {
			return misbehaving{w: w, at: WindowClosed, panics: w.StreamID() == 1}
		}})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		wantBody(t, "its end", got.want(t, "the response").Body, "")
		peer.WantIdle("there is nothing left to break")
		conn.Close()
		if err := conn.Err(); err != ErrClosed {
			t.Errorf("Err: %v", err)
		}
	})
}

func TestProbeRTTStaysWithinItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes []bool
		rtts := 0
		peer, conn := dialPeer(t, &Config{KeepAlive: -1, WindowManager: func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				switch {
				case w.StreamID() == 0 && ev.Kind == WindowData:
					probes = append(probes, w.ProbeRTT())
				case ev.Kind == WindowRTT:
					rtts++
				}
				return 0
			})
		}})
		id := uint32(1)
		request := func() { // makes traffic, then an event in which the manager probes
			t.Helper()
			resp := answerGet(t, peer, conn, id, ":status: 200")
			peer.WriteData(id, wire.EndStream, []byte("x"))
			wantBody(t, "the body", resp.Body, "x")
			id += 2
		}
		request()
		data := peer.WantPing("the first probe", 0)
		request() // while the first probe is in progress
		peer.WritePing(wire.Ack, data)
		for range 2 {
			request()
			peer.WritePing(wire.Ack, peer.WantPing("a burst of three", 0))
		}
		request() // beyond the burst
		time.Sleep(10 * time.Second)
		request()
		peer.WritePing(wire.Ack, peer.WantPing("ten seconds later", 0))
		peer.WantIdle("and no other PING")
		if want := []bool{true, false, true, true, false, true}; !slices.Equal(probes, want) {
			t.Errorf("probes %v, want %v", probes, want)
		}
		if rtts != 1+4 {
			t.Errorf("%d round trips measured, want that of SETTINGS and 4 probes", rtts)
		}
	})
}

// The connection reads its clock once for all that one read of the socket returns. A PING that is
// sent in the meantime is later than a forged acknowledgment in the same read.
func TestForgedAnswerToAPingIsNoNegativeRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var samples []time.Duration
		manager := func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				switch {
				case w.StreamID() == 0:
				case ev.Kind == WindowData:
					w.ProbeRTT()
				case ev.Kind == WindowRTT:
					samples = append(samples, ev.RTT)
				}
				return 0
			})
		}
		slow := func(TraceEvent) { time.Sleep(time.Millisecond) }
		peer, conn := dialPeer(t, &Config{WindowManager: manager, Trace: slow})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, 0, []byte("x"))
			peer.WritePing(wire.Ack, [8]byte{7: 1})
		})
		got.want(t, "the response")
		time.Sleep(time.Second)
		synctest.Wait()
		if len(samples) != 1 || samples[0] <= 0 {
			t.Errorf("samples: %v", samples)
		}
	})
}

func TestProbeRTTNeedsTrafficOfOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes []bool
		peer, conn := dialPeer(t, &Config{KeepAlive: -1, WindowManager: func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				if w.StreamID() == 0 && ev.Kind == WindowData {
					probes = append(probes, w.ProbeRTT())
				}
				return 0
			})
		}})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, []byte("x"))
		peer.WritePing(wire.Ack, peer.WantPing("the first", 0))
		peer.WriteData(1, 0, []byte("x"))
		peer.WantIdle("servers end connections for PINGs and nothing else")
		if !slices.Equal(probes, []bool{true, false}) {
			t.Errorf("probes %v", probes)
		}
		resp.Body.Close()
	})
}

func TestWindowEventTexts(t *testing.T) {
	if got := fmt.Sprint(WindowOpened, WindowClosed, WindowEventKind(0), WindowEventKind(77)); got !=
		"Opened Closed ? WindowEventKind(77)" {
		t.Error(got)
	}
	if ev := (WindowEvent{Kind: WindowData, Bytes: 5}); ev.Received() != 5 || ev.Consumed() != 0 {
		t.Error("Data")
	}
	if ev := (WindowEvent{Kind: WindowConsumed, Bytes: 5}); ev.Received() != 0 || ev.Consumed() != 5 {
		t.Error("Consumed")
	}
	negative := &WindowManagerError{StreamID: 5, Event: WindowData, Value: -3}
	if got := negative.Error(); got !=
		"hyper: window manager of stream 5 returned -3 for Data: an increment cannot be negative" {
		t.Error(got)
	}
	panicked := &WindowManagerError{Event: WindowTick, Panic: "no"}
	if got := panicked.Error(); got != "hyper: window manager of the connection panicked at Tick: no" {
		t.Error(got)
	}
}

func TestFactoryThatPanicsEndsItsStreamAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		_, err := conn.Do(t.Context(),
			&Request{WindowManager: func(*Window) WindowManager { panic("no manager today") }})
		var we *WindowManagerError
		if !errors.As(err, &we) || we.Panic != "no manager today" {
			t.Errorf("Do: %v", err)
		}
		peer.WantHeaders("the request had gone out", 1)
		peer.WantRSTStream("and is taken back", 1, wire.InternalError)
		got := getAsync(conn, "/next")
		peer.WantHeaders("the connection lives", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		got.want(t, "another stream")
	})
}

func TestStreamManagerThatProbesHearsTheRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		var sample time.Duration
		factory := func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				switch ev.Kind {
				case WindowHeaders:
					if !w.ProbeRTT() {
						t.Error("the budget refuses the first probe")
					}
				case WindowRTT:
					sample = ev.RTT
				}
				return 0
			})
		}
		got := doAsync(t.Context(), conn, &Request{WindowManager: factory})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		data := peer.WantPing("the probe", 0)
		time.Sleep(20 * time.Millisecond)
		peer.WritePing(wire.Ack, data)
		synctest.Wait()
		resp := got.want(t, "the response")
		resp.Body.Close()
		if sample != 20*time.Millisecond {
			t.Errorf("RTT event: %v", sample)
		}
	})
}

// The largest content-length plus one does not fit into an int64.
func TestLargestContentLengthKeepsTheWindowOpen(t *testing.T) {
	ev := WindowEvent{Kind: WindowBlocked, Length: math.MaxInt64}
	if got := defaultStreamManager.Update(ev); got != defaultStreamWindow {
		t.Errorf("%d is granted to a reader that waits, want %d", got, defaultStreamWindow)
	}
}

// Inside Update, a manager may look at another window of its connection and move it.
func TestManagerMovesAnotherWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		windows := map[uint32]*Window{}
		var before, after WindowEvent
		peer, conn := dialPeer(t, &Config{InitialStreamWindow: 100, WindowManager: func(w *Window) WindowManager {
			windows[w.StreamID()] = w
			return WindowManagerFunc(func(ev WindowEvent) int {
				if w.StreamID() == 3 && ev.Kind == WindowData {
					before = windows[1].State()
					windows[1].GrantNow(50)
					windows[1].GrantNow(-1)
					after = windows[1].State()
				}
				return 0
			})
		}})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 1000")
		peer.WriteData(1, 0, make([]byte, 30))
		readOctets(t, resp.Body, 10)
		answerGet(t, peer, conn, 3, ":status: 200")
		peer.WriteData(3, 0, make([]byte, 1))
		peer.WantWindowUpdate("stream 3's manager raised the window of stream 1", 1, 50)
		synctest.Wait()
		want := WindowEvent{Credit: 70, Unread: 20, Total: 30, Length: 970, Now: before.Now, RTT: before.RTT}
		if before != want {
			t.Errorf("the state before: %+v", before)
		}
		if before.Credit = 120; after != before {
			t.Errorf("the state after: %+v, want %+v", after, before)
		}
	})
}
