// This file tests the events that window managers get, and the managers of the package.

package hypertest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A windowLog records the events of a connection's managers in order, one in a line.
type windowLog struct{ lines []string }

// managers returns a factory of managers that record their events and return what answer returns.
// If answer is nil, they return 0.
func (l *windowLog) managers(answer func(w *hyper.Window,
	ev hyper.WindowEvent) int) hyper.WindowManagerFactory {
	return func(w *hyper.Window) hyper.WindowManager {
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			l.lines = append(l.lines, fmt.Sprintf("%d %v", w.StreamID(), eventText(ev)))
			if answer == nil {
				return 0
			}
			return answer(w, ev)
		})
	}
}

// eventText returns all of an event except for its time, without fields that are 0.
func eventText(ev hyper.WindowEvent) string {
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

func TestWindowManagersHearOfEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: log.managers(nil)})
		log.want(t, "the connection is opened first, and the answer to our SETTINGS is a round trip",
			"0 Opened credit=65535 length=-1",
			"0 RTT credit=65535 length=-1")
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		log.want(t, "a request", "1 Opened credit=65535 length=-1")
		peer.WriteHeaders(1, 0, ":status: 200", "content-length: 10")
		log.want(t, "its length is known", "1 Headers credit=65535 length=10")
		resp := got.Want(t, "the response")
		peer.WritePaddedData(1, 0, []byte("123456"), 3)
		log.want(t, "padding counts and is consumed at once; the connection is first",
			"0 Data bytes=10 padding=4 credit=65525 unread=10 total=10 length=-1",
			"0 Consumed bytes=4 credit=65525 unread=6 total=10 length=-1",
			"1 Data bytes=10 padding=4 credit=65525 unread=10 total=10 length=4",
			"1 Consumed bytes=4 credit=65525 unread=6 total=10 length=4")
		h2test.ReadBytes(t, resp.Body, 2)
		h2test.ReadBytes(t, resp.Body, 4)
		log.want(t, "each Read",
			"0 Consumed bytes=2 credit=65525 unread=4 total=10 length=-1",
			"1 Consumed bytes=2 credit=65525 unread=4 total=10 length=4",
			"0 Consumed bytes=4 credit=65525 total=10 length=-1",
			"1 Consumed bytes=4 credit=65525 total=10 length=4")
		peer.WriteData(1, wire.EndStream, []byte("7890"))
		log.want(t, "the end",
			"0 Data bytes=4 credit=65521 unread=4 total=14 length=-1 END",
			"1 Data bytes=4 credit=65521 unread=4 total=14 END")
		h2test.WantBody(t, "the rest", resp.Body, "7890")
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
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: log.managers(nil)})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.Want(t, "the response")
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
			peer, conn := dialPeer(t, &hyper.Config{WindowManager: log.managers(nil)})
			resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 5")
			peer.WriteData(1, wire.EndStream, make([]byte, came))
			peer.WantRSTStream("less than 5", 1, wire.ProtocolError)
			n, err := io.Copy(io.Discard, resp.Body)
			if int(n) != came || !errors.Is(err, hyper.ErrCodeProtocol) {
				t.Errorf("read %d, %v", n, err)
			}
			synctest.Wait()
			if last := log.lines[len(log.lines)-1]; !strings.HasPrefix(last, "1 Closed") {
				t.Errorf("the last event is %s", last)
			}
		})
	}
}

func TestDroppedAndLateBytesAreConsumedByTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: log.managers(nil)})
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

func TestBlockedManagersHearOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		help := false
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 1 << 20,
			WindowManager: log.managers(func(_ *hyper.Window, ev hyper.WindowEvent) int {
				if ev.Kind == hyper.WindowBlocked && help {
					return 5
				}
				return 0
			})})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		for range 5 {
			peer.WriteData(1, 0, make([]byte, wire.InitialWindow/5))
		}
		h2test.ReadBytes(t, resp.Body, wire.InitialWindow)
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

func TestStreamIsBlockedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 10,
			WindowManager: func(*hyper.Window) hyper.WindowManager {
				return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
					if ev.Kind == hyper.WindowBlocked {
						return 7
					}
					return 0
				})
			}})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 10))
		h2test.ReadBytes(t, resp.Body, 10)
		peer.WantIdle("no call waits")
		go io.ReadAll(resp.Body)
		peer.WantWindowUpdate("now a call waits", 1, 7)
		peer.WriteData(1, 0, make([]byte, 7))
		peer.WantWindowUpdate("and again", 1, 7)
		peer.WriteData(1, wire.EndStream, nil)
		peer.WantIdle("until the end")
	})
}

func TestSettingsMoveWindowsAndReportByHowMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log windowLog
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: log.managers(nil)})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 60000))
		synctest.Wait()
		log.lines = nil
		for _, size := range []uint32{66535, 10} {
			done := make(chan error)
			go func() {
				done <- conn.UpdateSettings(t.Context(),
					hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: size})
			}()
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
		peer, conn, _ := newPeer(t, &hyper.Config{WindowManager: func(w *hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if ev.Kind != hyper.WindowConsumed {
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
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: func(w *hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				switch {
				case ev.Kind == hyper.WindowTick:
					ticks = append(ticks, fmt.Sprint(w.StreamID(), " ", ev.Now))
					return 100
				case ev.Kind == hyper.WindowOpened && w.StreamID() > 0:
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
		second.Want(t, "over before its tick")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if want := []string{"1 2.005s"}; !slices.Equal(ticks, want) {
			t.Errorf("ticks %q, want %q", ticks, want)
		}
		peer.WantIdle("one tick, one answer")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		first.Want(t, "the response")
	})
}

// This is the example of python hyper's guide, written as in the documentation.
func TestStupidManagerReopensByWhatCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stupid := func(*hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return ev.Received() })
		}
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: stupid})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		for _, n := range []int{1, 1000, 16384} {
			peer.WriteData(1, 0, make([]byte, n))
			peer.WantWindowUpdate("the connection's first", 0, n)
			peer.WantWindowUpdate("then the stream's", 1, n)
		}
		peer.WritePaddedData(1, 0, nil, 9)
		peer.WantWindowUpdate("padding counts", 0, 10)
		peer.WantWindowUpdate("padding counts", 1, 10)
		h2test.ReadBytes(t, resp.Body, 17385)
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
		m := hyper.FixedWindow{Size: c.size}.New(nil)
		for _, kind := range []hyper.WindowEventKind{hyper.WindowData, hyper.WindowSettings,
			hyper.WindowBlocked} {
			if got := m.Update(hyper.WindowEvent{Kind: kind, Credit: c.credit}); got != c.want {
				t.Errorf("Fixed{%d} answers %d to %v with credit %d, want %d", c.size, got, kind, c.credit,
					c.want)
			}
		}
		if got := m.Update(hyper.WindowEvent{Kind: hyper.WindowConsumed, Bytes: 1, Credit: c.credit}); got !=
			0 {
			t.Errorf("Fixed{%d} answers %d to Consumed", c.size, got)
		}
	}
}

func TestFixedOpensAtItsSizeAndReopensUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, _, _ := newPeer(t, &hyper.Config{WindowManager: hyper.FixedWindow{Size: 100_000}.New})
		peer.WantPreface("first")
		peer.WantWindowUpdate("the connection", 0, 100_000-65535)
	})
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: hyper.FixedWindow{}.New})
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
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: hyper.ReadWindow{Stream: 65536,
			Connection: 131072}.New})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WantWindowUpdate("what the settings leave out", 1, 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := got.Want(t, "the response")
		for range 4 {
			peer.WriteData(1, 0, make([]byte, 16384))
		}
		peer.WantIdle("unread octets keep it closed")
		h2test.ReadBytes(t, resp.Body, 32767)
		peer.WantIdle("less than half")
		h2test.ReadBytes(t, resp.Body, 1)
		peer.WantWindowUpdate("half the window was read", 1, 32768)
		h2test.ReadBytes(t, resp.Body, 32768)
		peer.WantWindowUpdate("half of the connection's", 0, 65536)
		peer.WantWindowUpdate("and of the stream's again", 1, 32768)
		peer.WantIdle("and nothing else")
		resp.Body.Close()
	})
}

func TestManualNeverGrantsPastAKnownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 10_000,
			WindowManager: hyper.ReadWindow{Stream: 10_000}.New})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 12000")
		peer.WriteData(1, 0, make([]byte, 5000))
		h2test.ReadBytes(t, resp.Body, 5000)
		peer.WantWindowUpdate("5,000 are granted and 7,000 due, and room for END_STREAM", 1, 2001)
		peer.WriteData(1, 0, make([]byte, 7000-1))
		h2test.ReadBytes(t, resp.Body, 7000-1)
		peer.WantIdle("the rest fits")
		peer.WriteData(1, wire.EndStream, make([]byte, 1))
		h2test.WantBody(t, "to its end", resp.Body, "\x00")
	})
}

func TestManualAnswersABlockedReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 10,
			WindowManager: hyper.ReadWindow{Stream: 10}.New})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 12")
		peer.WritePaddedData(1, 0, make([]byte, 4), 1)
		h2test.ReadBytes(t, resp.Body, 4)
		peer.WantWindowUpdate("half of it is consumed, 8 are due, 4 granted, and room for END_STREAM", 1, 5)
		peer.WritePaddedData(1, 0, make([]byte, 4), 4) // all that was granted
		h2test.ReadBytes(t, resp.Body, 4)
		peer.WantWindowUpdate("padding must not stop the rest", 1, 5)
		peer.WriteData(1, wire.EndStream, make([]byte, 4))
		h2test.WantBody(t, "to its end", resp.Body, "\x00\x00\x00\x00")
	})
}

func TestRateLimitedHoldsItsRate(t *testing.T) {
	const rate = 1 << 20
	for _, c := range []struct {
		rtt, burst int // in ms and in bytes
	}{{0, rate / 4}, {20, rate / 4}, {300, rate}} {
		t.Run(fmt.Sprintf("%d ms", c.rtt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limited := hyper.RateLimitedWindow{PerSecond: rate, Burst: c.burst}
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: limited.New})
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
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 1000,
			WindowManager: hyper.RateLimitedWindow{PerSecond: 4000}.New})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 1100")
		peer.WriteData(1, 0, make([]byte, 1000))
		h2test.ReadBytes(t, resp.Body, 1000)
		peer.WantWindowUpdate("what is due, and room for END_STREAM", 1, 101)
		peer.WriteData(1, wire.EndStream, make([]byte, 100))
		h2test.ReadBytes(t, resp.Body, 100)
		peer.WantIdle("nothing more")
	})
}
