package hyper

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// callerPeer returns a Caller and its peer.
func callerPeer(t *testing.T, cfg *Config) (*Caller, *h2test.Peer) {
	peer, conn := dialPeer(t, cfg)
	return &Caller{Conn: conn}, peer
}

// A stream of free memory is in the same state whatever its exchange was, so that no state of it
// reaches the next one. A field that is added to Stream is in this comparison.
func TestFreeMemoryHasNothingOfItsExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, peer := callerPeer(t, &Config{Authority: "example.com", StreamTimes: true,
			ExpectContinueTimeout: -1})
		id := uint32(1)
		exchange := func(req *Request, interim bool, fields ...string) *Stream {
			call := h2test.Go(func() (*Response, error) { return k.Do(t.Context(), req) })
			peer.WantHeaders("the request", id)
			if req.Body != nil {
				peer.WantBody("its body", id, []byte("a body"))
			}
			if req.Trailer != nil {
				peer.WantHeaders("its trailers", id)
			}
			if interim {
				peer.WriteHeaders(id, 0, ":status: 103", "a: 1")
			}
			peer.WriteHeaders(id, 0, append([]string{":status: 200"}, fields...)...)
			peer.WriteData(id, 0, []byte("a text"))
			peer.WriteTrailers(id, "b: 2")
			id += 2
			resp := call.Want(t, "the response")
			resp.Stream().Done()
			h2test.WantBody(t, "the body", resp.Body, "a text")
			synctest.Wait()
			return resp.Stream()
		}
		free := func(name string, s *Stream) {
			exchange(&Request{}, false)
			if s.memory.used {
				t.Fatalf("%s: the memory is not free", name)
			}
			want := Stream{c: s.c, memory: s.memory, req: &s.memory.req, state: s.state,
				sender: nothingToSend, sendErr: ErrReused, recvErr: ErrReused}
			want.reader.Store(readerDropped)
			want.window.c, want.window.s = s.c, s
			want.response = Response{s: s, Request: s.req, Body: (*responseBody)(&s.response)}
			a, b := reflect.ValueOf(s).Elem(), reflect.ValueOf(&want).Elem()
			for i := range a.NumField() {
				if got, want := fmt.Sprintf("%#v", a.Field(i)), fmt.Sprintf("%#v", b.Field(i)); got != want {
					t.Errorf("%s: %s is %s, want %s", name, a.Type().Field(i).Name, got, want)
				}
			}
			m := s.memory
			if !reflect.DeepEqual(m.req, Request{}) || !reflect.DeepEqual(m.sender, sender{}) ||
				m.taker.p != nil || m.calls != 0 {
				t.Errorf("%s: the memory holds %+v", name, m)
			}
			for _, f := range m.header[:cap(m.header)] {
				if f != (Field{}) {
					t.Errorf("%s: the header holds %v", name, f)
				}
			}
		}
		free("a GET", exchange(&Request{}, false, "a: 1", "b: 2"))
		free("an upload from memory", exchange(&Request{Method: "POST", Body: strings.NewReader("a body"),
			Trailer: Header{{Name: "c", Value: "3"}}, Priority: Priority{Urgency: 1}}, true))
		free("an upload", exchange(&Request{Method: "PUT",
			Body:          io.LimitReader(strings.NewReader("a body"), 9),
			Informational: func(int, Header) error { return nil }}, true))
	})
}

// While anything of the connection refers to a stream that has ended, its memory is not free.
func TestMemoryIsNotFreeWhileTheConnectionRefersToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, peer := callerPeer(t, &Config{Authority: "example.com", StreamTimes: true})
		call := h2test.Go(func() (*Response, error) {
			return k.Do(t.Context(), &Request{Method: "POST", Body: strings.NewReader("a body")})
		})
		peer.WantHeaders("the request", 1)
		peer.WantBody("its body", 1, []byte("a body"))
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		s := call.Want(t, "the response").Stream()
		synctest.Wait()
		c, m := s.c, s.memory
		c.lock()
		defer c.unlock()
		waiter := c.streams.spares.Get()
		marks, written := c.writer.tracer.marks, c.writer.written
		for name, refer := range map[string]func() (undo func()){
			"a call": func() func() { m.holdLocked(); return m.releaseLocked },
			"a reader that is to be woken": func() func() {
				s.wakeDue = true
				return func() { s.wakeDue = false }
			},
			"a reader that waits":        waits(&s.recvQ, waiter),
			"a call of Write":            waits(&s.sender.turn, waiter),
			"a call of Write that waits": waits(&s.sender.sent, waiter),
			"a WINDOW_UPDATE to be written": func() func() {
				s.window.pending = 1
				return func() { s.window.pending = 0 }
			},
			"a window manager": func() func() {
				s.window.manager = FixedWindow{}
				return func() { s.window.manager = nil }
			},
			"a reader of the window": func() func() {
				s.window.addReader()
				return s.window.removeReader
			},
			"the queue of the writer": func() func() {
				s.sender.in = &c.writer.blocked
				return func() { s.sender.in = nil }
			},
			"a time of the stream": func() func() {
				c.writer.tracer.marks = append(marks, sentMark{s: s})
				return func() { c.writer.tracer.marks = marks }
			},
			"a PING": func() func() {
				c.liveness.pings = append(c.liveness.pings, &ping{prober: &s.window})
				return func() { c.liveness.pings = c.liveness.pings[:len(c.liveness.pings)-1] }
			},
			"HEADERS that are not written": func() func() {
				c.writer.written = s.headersStart
				return func() { c.writer.written = written }
			},
			"a field section that counts": func() func() {
				s.extras.heldTrailer = 1
				return func() { s.extras.heldTrailer = 0 }
			},
		} {
			undo := refer()
			if m.freeLocked() {
				t.Fatalf("%s refers to a stream, and the memory is free", name)
			}
			undo()
		}
		if !m.freeLocked() {
			t.Error("the memory is not free")
		}
	})
}

// waits puts w on q.
func waits(q *wait.Queue, w *wait.Waiter) func() func() {
	return func() func() {
		q.Push(w)
		return func() { q.Remove(w) }
	}
}

// The second of two calls that use a Caller at once fails, and takes no slot.
func TestTwoCallsOfACallerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, peer := callerPeer(t, &Config{Authority: "example.com"})
		c := k.Conn
		m, again := k.memory(&Request{}), k.memory(&Request{})
		if m != again {
			t.Fatal("the second call has other memory")
		}
		if _, err := c.open(t.Context(), &m.stream, &m.req); err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		if _, err := c.open(t.Context(), &again.stream, &again.req); err != errCallerShared {
			t.Fatal(err)
		}
		c.lock()
		defer c.unlock()
		if c.slots.used != 1 || c.streams.byID[1] != &m.stream || k.last != m || k.next != nil {
			t.Errorf("%d slots are used; last %p, next %p", c.slots.used, k.last, k.next)
		}
	})
}

// However many fields the peer sends, a Caller keeps memory for 64 of them.
func TestCallerKeepsFewFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, peer := callerPeer(t, &Config{Authority: "example.com"})
		for i, n := range []int{0, 1, 64, 65, 1000, 3, 65} {
			fields := []string{":status: 204"}
			for j := range n {
				fields = append(fields, fmt.Sprintf("f%d: %d", j, i))
			}
			call := h2test.Go(func() (*Response, error) { return k.Get(t.Context(), "/") })
			peer.WantHeaders("the request", uint32(2*i+1))
			peer.WriteHeaders(uint32(2*i+1), wire.EndStream, fields...)
			resp := call.Want(t, "the response")
			if len(resp.Header) != n || n > 0 && resp.Header.Get(fmt.Sprintf("f%d", n-1)) != fmt.Sprint(i) {
				t.Errorf("%d fields, want %d", len(resp.Header), n)
			}
			for _, m := range []*reusedMemory{k.next, k.last} {
				if m != nil && cap(m.header) > maxKeptFields {
					t.Errorf("after %d fields, there is memory for %d", n, cap(m.header))
				}
			}
		}
	})
}
