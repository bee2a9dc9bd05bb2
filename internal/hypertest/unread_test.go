package hypertest

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// roundTrip is the round-trip time of the simulated path.
const roundTrip = 50 * time.Millisecond

// A filler is a peer that sends as much as the windows allow, once in each round trip.
type filler struct {
	*visit
	peer *accepted
	sent map[uint32]int
	last uint32 // the stream that was opened last
	rate int    // the most bytes in a round trip; 0: no limit
}

// fillDoor returns a filler that is connected through the door and has responded to one request.
func fillDoor(v *visit) *filler {
	f := &filler{visit: v, sent: map[uint32]int{}}
	call := v.get("/")
	f.peer = v.accept()
	f.peer.AutoPing()
	f.peer.AutoSettings()
	// Open ends the request with an empty DATA frame, and the test closes bodies early.
	f.peer.Ignore(wire.WindowUpdate, wire.Data, wire.RSTStream)
	f.answer(call, wire.EndStream).Body.Close()
	return f
}

// answer takes the next request and sends the header of its response.
func (f *filler) answer(call *httpCall, flags wire.Flags) *http.Response {
	f.t.Helper()
	f.last += 2
	if f.last%2 == 0 {
		f.last = 1
	}
	f.peer.WantHeaders("a request", f.last)
	f.peer.WriteHeaders(f.last, flags, ":status: 200")
	return call.Want(f.t, "a response")
}

// open makes n requests. Their responses have bodies that do not end. It returns the streams and
// the bodies.
func (f *filler) open(n int) (streams []uint32, bodies []io.ReadCloser) {
	f.t.Helper()
	for range n {
		resp := f.answer(f.get("/"), 0)
		streams, bodies = append(streams, f.last), append(bodies, resp.Body)
		f.t.Cleanup(func() { resp.Body.Close() })
	}
	return streams, bodies
}

// fill sends as much as the windows of streams allow, one frame on each in turn, and returns the
// number of bytes.
func (f *filler) fill(streams ...uint32) (total int) { return f.fillUpTo(1<<30, streams...) }

// fillUpTo is fill for responses that end after size bytes.
func (f *filler) fillUpTo(size int, streams ...uint32) (total int) {
	synctest.Wait()
	frame := make([]byte, 16<<10)
	f.peer.Batch(func() {
		for len(streams) > 0 && (f.rate == 0 || total < f.rate) {
			var more []uint32
			for _, id := range streams {
				left := size - f.sent[id]
				n := min(len(frame), f.peer.Credit(0), f.peer.Credit(id), left)
				if n <= 0 {
					continue
				}
				var flags wire.Flags
				if n == left {
					flags = wire.EndStream
				}
				f.peer.WriteData(id, flags, frame[:n])
				f.sent[id] += n
				total += n
				more = append(more, id)
			}
			streams = more
		}
	})
	synctest.Wait()
	return total
}

// speed returns how many bytes the reader of stream gets in a round trip: the mean of the last
// eight of 15, because a window is announced in steps of an eighth. During the first of them the
// peer also fills the windows of others. It reads body unless that is nil.
func (f *filler) speed(stream uint32, body io.Reader, others []uint32) int {
	if body != nil {
		go io.Copy(io.Discard, body)
	}
	const start, several = 7, 8
	before := 0
	for i := range start + several {
		if i == start {
			before = f.sent[stream]
			f.fill(append([]uint32{stream}, others...)...)
		} else {
			f.fill(stream)
		}
		time.Sleep(roundTrip)
	}
	return (f.sent[stream] - before) / several
}

// unread returns the number of bytes that the peer has sent on streams.
func (f *filler) unread(streams []uint32) (n int) {
	for _, id := range streams {
		n += f.sent[id]
	}
	return n
}

// An unreadTest is a connection on which one stream is read while others are not.
type unreadTest struct {
	cfg    hyper.Config
	budget int
	others func(f *filler) []uint32 // opens the other streams and fills their windows
	part   float64                  // of its speed alone that the stream must keep
}

// smallBudget is the memory budget of smallConfig, in bytes.
const smallBudget = 4 << 20

// smallConfig returns a Config with a small budget.
func smallConfig() hyper.Config {
	return hyper.Config{WindowManager: hyper.AdaptiveWindow{Budget: smallBudget}.New,
		InitialStreamWindow: 256<<10 - 1}
}

// run measures up to three times, because the speed of a stream depends a little on the scheduling
// of goroutines. The limit of memory must hold each time.
func (u unreadTest) run(t *testing.T, d door) {
	t.Helper()
	var got, alone int
	for range 3 {
		if got, alone = u.measure(t, d); float64(got) >= u.part*float64(alone) {
			return
		}
	}
	t.Errorf("%d octets in a round trip beside streams that are not read, %d alone", got, alone)
}

// measure returns the speed of a stream while others are unread, and its speed alone.
func (u unreadTest) measure(t *testing.T, d door) (got, alone int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fillDoor(visitDoor(t, d, u.cfg))
		streams, bodies := f.open(1)
		alone = f.speed(streams[0], bodies[0], nil)
	})
	synctest.Test(t, func(t *testing.T) {
		f := fillDoor(visitDoor(t, d, u.cfg))
		others := u.others(f)
		streams, bodies := f.open(1)
		unread := 0
		got, unread = f.speed(streams[0], bodies[0], others), f.unread(others)
		if unread > u.budget {
			t.Errorf("%d octets lie unread, the budget is %d", unread, u.budget)
		}
		t.Logf("%d octets in a round trip, %d alone, %d unread", got, alone, unread)
	})
	return got, alone
}

// RFC 9113 §5.2.2: a receiver that reads only some streams must not let the others use up the
// connection's window. At every door, a stream that is read is almost as fast as if it were alone.
func TestStreamsThatAreNeverReadLeaveTheWindowToOthers(t *testing.T) {
	test := unreadTest{smallConfig(), smallBudget, func(f *filler) []uint32 {
		streams, _ := f.open(99)
		f.fill(streams...)
		return streams
	}, 0.9}
	for _, d := range largeDoors() {
		t.Run(d.name, func(t *testing.T) { test.run(t, d) })
	}
}

// The same holds with the defaults: 1,000 streams of 256 KiB and a budget of 64 MiB.
func TestAThousandStreamsThatAreNeverReadLeaveTheWindowToOthers(t *testing.T) {
	if h2test.Race {
		t.Skip("the race detector makes it take 40 seconds, for the same code as above")
	}
	unreadTest{hyper.Config{}, 64 << 20, func(f *filler) []uint32 {
		streams, _ := f.open(999)
		f.fill(streams...)
		return streams
	}, 0.9}.run(t, doors[2])
}

// oneByOne returns a function that opens n streams one after another and calls use for each.
func oneByOne(n int, use func(f *filler, stream uint32, body io.Reader)) func(f *filler) []uint32 {
	return func(f *filler) (all []uint32) {
		for range n {
			streams, bodies := f.open(1)
			use(f, streams[0], bodies[0])
			all = append(all, streams...)
		}
		return all
	}
}

func TestUnreadBytesLeaveTheWindowToOthers(t *testing.T) {
	const rate = smallBudget / 8 // a path that needs a quarter of the budget
	bare := smallConfig()
	bare.InitialStreamWindow = -1
	for name, test := range map[string]unreadTest{
		"filled one by one": {smallConfig(), smallBudget,
			oneByOne(99, func(f *filler, stream uint32, _ io.Reader) {
				f.fill(stream)
			}), 0.9},
		"complete responses": {smallConfig(), smallBudget,
			oneByOne(99, func(f *filler, stream uint32, _ io.Reader) {
				f.fillUpTo(100_000, stream)
			}), 0.9},
		"after large responses": {smallConfig(), smallBudget, func(f *filler) []uint32 {
			f.rate = rate
			streams, bodies := f.open(1)
			f.speed(streams[0], bodies[0], nil)
			bodies[0].Close()
			return oneByOne(40, func(f *filler, stream uint32, _ io.Reader) {
				f.fill(stream)
			})(f)
		}, 0.1}, // the path is eight times slower than for the stream alone
		"without an initial window": {bare, smallBudget,
			oneByOne(99, func(f *filler, stream uint32, body io.Reader) {
				h2test.Go(func() (int, error) { return body.Read(make([]byte, 1)) })
				f.fill(stream)
			}), 0.03}, // each of them was read once
	} {
		t.Run(name, func(t *testing.T) { test.run(t, doors[2]) })
	}
}

// If the readers of eight streams with grown windows stop, the ninth stream still gets the full
// speed of the path.
func TestStreamsThatStopBeingReadLeaveTheWindowToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fillDoor(visitDoor(t, doors[2], smallConfig()))
		f.rate = smallBudget / 8
		streams, bodies := f.open(9)
		var stopped atomic.Bool
		for _, body := range bodies[1:] {
			go func() {
				for buf := make([]byte, 16<<10); !stopped.Load(); {
					body.Read(buf)
				}
			}()
		}
		go io.Copy(io.Discard, bodies[0])
		for range 40 {
			f.fill(streams...)
			time.Sleep(roundTrip)
		}
		stopped.Store(true)
		before := f.unread(streams[1:])
		for range 20 {
			f.fill(streams...)
			time.Sleep(roundTrip)
		}
		if got := f.speed(streams[0], nil, nil); got < f.rate/10*9 {
			t.Errorf("%d octets in a round trip, the path takes %d", got, f.rate)
		}
		if unread := f.unread(streams[1:]) - before; unread > smallBudget {
			t.Errorf("%d octets lie unread", unread)
		}
	})
}
