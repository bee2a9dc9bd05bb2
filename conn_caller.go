package hyper

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"

	"gohyper.dev/hyper/internal/state"
)

// A Caller makes exchanges on a connection one after the other, in the same memory: an exchange
// uses the memory of the one before the last. So a small request allocates nothing. Get, Do and
// Open are those of the Conn, except for this.
//
//	caller := hyper.Caller{Conn: conn}
//	for _, path := range paths {
//		resp, err := caller.Get(ctx, path)
//		...
//	}
//
// When Get, Do or Open is called again, the Response of the last exchange, its Stream, Header and
// Body must not be used any more, and no call of theirs may be in progress. From then on, each of
// their methods returns ErrReused, or a zero value if it returns no error, and changes nothing; the
// fields of the Response and its Header are empty. This holds until the call after that: its
// exchange gets the memory. If such a use was found until then, that exchange gets other memory,
// and the methods go on to return ErrReused. If none was found, a later use concerns the new
// exchange. No use affects other exchanges or the connection. The race detector finds one on
// another goroutine.
//
// An exchange keeps its memory, and its Response stays valid, if it is not over at the next call,
// or if something may still refer to it. It is over when its stream has ended in both directions
// (see Stream.Done), its Response was returned or its stream was reset, and its body was read to
// its end or closed. Some exchanges keep their memory even then: those with a WindowManager of the
// program, those that a context has ended, those with a promise that waits to be claimed, those
// with a body that waited for 100 (Continue) or with a response that was decoded and not read to
// its end, and those with HEADERS that wait to be written. The exchange after the next then uses
// new memory, which is what Conn's methods do for each.
//
// Do and Open copy the Request. So the caller may change it when they have returned, but not what
// it refers to: for that, the rules of Request apply. Response.Request is the copy.
//
// A Caller is for one goroutine at a time, and must not be copied after its first use. It holds the
// memory of two exchanges, or of three after a call that failed, with up to 64 fields of a Header
// each, and what the last exchange refers to. The zero value with a Conn is ready. After a change
// of Conn, exchanges use new memory.
type Caller struct {
	// Conn is the connection. Do, Get and Open panic if it is nil.
	Conn *Conn

	next  *reusedMemory // of the next exchange; nil: it needs new memory
	last  *reusedMemory // of the last exchange, as long as it was not followed by another call
	spare *reusedMemory // free; of the exchange after the next. nil: there is none
}

// ErrReused is returned by calls on an exchange of a Caller after the Caller was called again: see
// Caller.
var ErrReused = errors.New("hyper: the Caller was called again and reuses the memory")

// errCallerShared is returned to the second of two calls that use a Caller at once.
var errCallerShared = errors.New("hyper: two calls use the Caller at once")

// maxKeptFields is how many fields of a response may be in reused memory. A larger Header has
// memory of its own.
const maxKeptFields = 64

// Get is Conn.Get.
func (k *Caller) Get(ctx context.Context, path string) (*Response, error) {
	mustHave(ctx != nil, "Caller.Get", "context.Context")
	mustHave(k.Conn != nil, "Caller.Get", "Conn")
	return k.do(ctx, k.memory(&Request{Method: "GET", Path: path}))
}

// Do is Conn.Do.
func (k *Caller) Do(ctx context.Context, req *Request) (*Response, error) {
	mustHave(ctx != nil, "Caller.Do", "context.Context")
	mustHave(req != nil, "Caller.Do", "*Request")
	mustHave(k.Conn != nil, "Caller.Do", "Conn")
	return k.do(ctx, k.memory(req))
}

// do makes the exchange for which memory has returned m.
func (k *Caller) do(ctx context.Context, m *reusedMemory) (*Response, error) {
	resp, err := k.Conn.do(ctx, &m.stream, &m.req)
	m.releaseUnopened()
	return resp, err
}

// Open is Conn.Open.
func (k *Caller) Open(ctx context.Context, req *Request) (*Stream, error) {
	mustHave(ctx != nil, "Caller.Open", "context.Context")
	mustHave(req != nil, "Caller.Open", "*Request")
	mustHave(k.Conn != nil, "Caller.Open", "Conn")
	m := k.memory(req)
	s, err := k.Conn.open(ctx, &m.stream, &m.req)
	m.releaseUnopened()
	return s, err
}

// memory returns the memory for an exchange with req. If the exchange does not begin, the next call
// returns the same memory.
func (k *Caller) memory(req *Request) *reusedMemory {
	m := k.next
	if m == nil || m.stream.c != k.Conn || m.misused.Load() {
		m = &reusedMemory{}
		m.stream.c, m.stream.memory = k.Conn, m
		k.next = m
	}
	if k.last != nil && k.last.stream.c != k.Conn {
		k.last = nil
	}
	if k.spare != nil && k.spare.stream.c != k.Conn {
		k.spare = nil
	}
	m.caller, m.req = k, *req
	return m
}

// A reusedMemory is the memory of one exchange of a Caller at a time. All exchanges are on the same
// connection, so that its lock orders a misuse of an earlier exchange with the new one.
type reusedMemory struct {
	// The connection's mu guards the first fields. Calls of the user read used without it, and it
	// changes only between two exchanges. So the race detector finds a call for an earlier exchange
	// on another goroutine.
	used     bool  // by an exchange; otherwise calls for an earlier one return ErrReused
	returned bool  // the Response was returned to the caller
	calls    int32 // calls and goroutines that have unlocked mu and will use the stream

	misused atomic.Bool // a call for an earlier exchange was found
	caller  *Caller
	header  Header // of the response, if it has few fields
	stream  Stream
	req     Request

	// Only requests with a body use these.
	sender     sender
	taker      taker
	length     int64  // the last length of a body
	lengthText string // its text
}

// The methods of reusedMemory that are called for each Stream may be called for nil, which is the
// memory of an exchange that no Caller made.

// holdLocked counts a call or a goroutine that unlocks mu and will use the stream later.
// releaseLocked follows, or nothing if the memory must not be reused.
func (m *reusedMemory) holdLocked() {
	if m != nil {
		m.calls++
	}
}

// releaseLocked ends holdLocked.
func (m *reusedMemory) releaseLocked() {
	if m != nil {
		m.calls--
	}
}

// noteReturnedLocked notes that the Response was returned to the caller.
func (m *reusedMemory) noteReturnedLocked() {
	if m != nil {
		m.returned = true
	}
}

// newSender returns memory for the sender of the stream.
func (m *reusedMemory) newSender() *sender {
	if m == nil {
		return &sender{}
	}
	return &m.sender
}

// newTaker returns memory for a taker.
func (m *reusedMemory) newTaker() *taker {
	if m == nil {
		return &taker{}
	}
	return &m.taker
}

// lengthOf returns the text of a body's length.
func (m *reusedMemory) lengthOf(n int64) string {
	if m == nil {
		return strconv.FormatInt(n, 10)
	}
	if m.length != n || m.lengthText == "" {
		m.length, m.lengthText = n, strconv.FormatInt(n, 10)
	}
	return m.lengthText
}

// copyFields returns a Header with fields for the response.
func (m *reusedMemory) copyFields(fields []Field) Header {
	if len(fields) > maxKeptFields {
		return append(Header(nil), fields...)
	}
	if cap(m.header) < len(fields) {
		m.header = make(Header, 0, len(fields))
	}
	m.header = append(m.header[:0], fields...)
	return m.header
}

// freeLastLocked frees the memory of the Caller's last exchange, if that is over. It is called
// before the exchange in m gets its stream, while that memory is in the processor's cache.
func (m *reusedMemory) freeLastLocked() {
	if m == nil || m.used { // beginLocked finds that the Caller is shared
		return
	}
	k := m.caller
	if last := k.last; last != nil && last.freeLocked() {
		k.spare = last
	}
	k.last = nil
}

// beginLocked begins an exchange in m.
func (m *reusedMemory) beginLocked() error {
	if m.used {
		return errCallerShared
	}
	k := m.caller
	k.last, k.next, k.spare = m, k.spare, nil
	m.used, m.returned = true, false
	s := &m.stream
	s.state, s.recvErr, s.sendErr, s.sender = state.Idle, nil, nil, nil
	s.reader.Store(readerOpen)
	return nil
}

// releaseUnopened drops what the memory refers to if the exchange has not begun.
func (m *reusedMemory) releaseUnopened() {
	if m.caller.next == m {
		m.req, m.taker.p = Request{}, nil
	}
}

// freeLocked makes the memory free if the exchange is over and nothing refers to it. It reports
// whether the memory is free.
func (m *reusedMemory) freeLocked() bool {
	s := &m.stream
	if m.calls > 0 || !m.isOverLocked() || s.isReferredToLocked() {
		return false
	}
	m.used = false
	clear(m.header)
	m.req = Request{}
	if s.sender == &m.sender {
		m.sender, m.taker.p = sender{}, nil
	}
	s.resetMemoryLocked()
	return true
}

// resetMemoryLocked sets every field of a stream that has ended when its memory becomes free. For a
// call that has begun before, the stream is one that has ended.
func (s *Stream) resetMemoryLocked() {
	s.id, s.headersStart, s.sendDelta, s.bodyLeft = 0, 0, 0, 0
	s.upload.Store(noUpload)
	s.reader.Store(readerDropped)
	s.message, s.began = state.AwaitingHeaders, false
	s.sender, s.sendErr, s.recvErr = nothingToSend, ErrReused, ErrReused
	if s.extras != nil || s.deadlines != nil {
		s.extras, s.deadlines = nil, nil
	}
	s.window = Window{c: s.c, s: s}
	s.response = Response{s: s, Request: s.req, Body: (*responseBody)(&s.response)}
}

// isOverLocked reports whether the exchange is over: see Caller.
func (m *reusedMemory) isOverLocked() bool {
	s := &m.stream
	switch {
	case s.state != state.Closed || s.recvErr == nil || s.sendErr == nil:
		return false
	case s.buf.Len() > 0 || s.extras.promised() || !s.response.decoded.isOver():
		return false
	}
	return m.returned || s.isDropped() || !s.answered()
}

// reusedErr returns ErrReused if the stream's memory is free. Calls of the user begin with it.
func (s *Stream) reusedErr() error {
	if s.memory == nil || s.memory.used {
		return nil
	}
	s.memory.misused.Store(true)
	return ErrReused
}

// closedErrLocked returns the error of calls after Conn.Close.
func (s *Stream) closedErrLocked() error {
	if err := s.reusedErr(); err != nil {
		return err
	}
	return ErrClosed
}
