package hyper

import (
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"

	"gohyper.dev/hyper/internal/state"
)

// This file has the responses of net/http's types, and reuses the memory of their exchanges. The
// caller keeps the http.Response and its Body: they are in memory of their own, the httpResponse.
// The caller can also keep the Header alone, so nothing of it is in the httpResponse, which keeps
// the request and the connection. All else of an exchange can be used again when the body was read
// to its end and closed, if nothing refers to it any more: no call in progress, nothing of the
// connection (Stream.isUnreferencedLocked), and no Response that was shown to the user. Later calls
// of the Body need nothing of it.

// exchanges has memory for exchanges. All of it is zero.
var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// An httpResponse is an http.Response that was made from a Response. It is also the state of its
// body.
type httpResponse struct {
	answer http.Response
	own    *Response     // nil once useGone is set
	req    *http.Request // nil: no request
	memory *exchange     // that can be used again; nil: none

	use   atomic.Uint32 // the use flags, and useCall for each call in progress
	ended endedResponse // what remains of own
}

// The parts of httpResponse.use.
const (
	useClosed uint32 = 1 << iota // the body was closed
	useWhole                     // the body was read to its end
	useKept                      // own stays as it is, because the user may have it
	useGone                      // own was given up: its memory is used for something else
	useCall                      // one call in progress
)

// A valueArray has memory for values of http.Headers. The Headers of a few responses share an array:
// each has a part of its own.
type valueArray struct{ free []string }

// valueArrays has the arrays of which a part is free.
var valueArrays = sync.Pool{New: func() any { return new(valueArray) }}

// sharedValues is the length of an array. A Header with more than maxShared values has an array of
// its own.
const (
	sharedValues = 64
	maxShared    = sharedValues / 4
)

// roomForValues returns an empty slice with the capacity n. No part of an array is given out twice.
func roomForValues(n int) []string {
	if n > maxShared {
		return make([]string, 0, n)
	}
	a := valueArrays.Get().(*valueArray)
	if len(a.free) < n {
		a.free = make([]string, sharedValues)
	}
	room := a.free[:0:n]
	a.free = a.free[n:]
	valueArrays.Put(a)
	return room
}

// An endedResponse has what a Response needs that is made again after its memory was given up.
type endedResponse struct {
	conn     *Conn
	header   Header // may be shared
	length   int64  // Response.ContentLength
	received atomic.Int64
	id       uint32
	status   uint16
}

// lend notes that the memory of x can be used again when the exchange has ended. own is the
// Response in it.
func (h *httpResponse) lend(x *exchange, own *Response) {
	h.memory = x
	e := &h.ended
	e.conn, e.id = own.s.c, own.StreamID
	e.header, e.length, e.status = own.Header, own.ContentLength, uint16(own.StatusCode)
}

// enter begins a call that uses own. It returns the flags. If useGone is set, the call must not
// use own. Each call of enter needs one of leave.
func (h *httpResponse) enter() (flags uint32) { return h.use.Add(useCall) }

// leave ends a call that used own. The last such call after the body was closed gives up the
// memory of own.
func (h *httpResponse) leave() {
	if h.memory == nil || !h.own.s.isUnreferenced() {
		h.use.Add(^(useCall - 1))
		return
	}
	h.ended.received.Store(h.own.s.window.total) // a call that comes later may need it
	flags := h.use.Add(^(useCall - 1))
	if flags&^useWhole != useClosed || !h.use.CompareAndSwap(flags, flags|useGone) {
		return
	}
	x := h.memory
	h.own, h.memory = nil, nil
	*x = exchange{}
	exchanges.Put(x)
}

// leaveGone ends a call for which enter returned useGone.
func (h *httpResponse) leaveGone() { h.use.Add(^(useCall - 1)) }

// shown returns the Response for the user to keep.
func (h *httpResponse) shown() *Response {
	if h.enter()&useGone != 0 {
		defer h.leaveGone()
		return h.ended.response(h.req)
	}
	defer h.leave()
	h.use.Or(useKept)
	return h.own.shown()
}

// response returns a Response like the one that was given up, for req.
func (e *endedResponse) response(req *http.Request) *Response {
	s := &Stream{c: e.conn, id: e.id, req: &Request{}, state: state.Closed, message: state.InBody,
		recvErr: io.EOF, sender: nothingToSend, sendErr: ErrSendEnded}
	if req != nil {
		s.req.fromHTTP(req) // this had no error before
	}
	s.reader.Store(readerOver)
	s.window.c, s.window.s, s.window.kind = e.conn, s, defaultManager
	s.window.total = e.received.Load()
	s.response = Response{StatusCode: int(e.status), Header: e.header.Clone(), ContentLength: e.length,
		StreamID: e.id, Request: s.req, s: s}
	s.response.Body = (*responseBody)(&s.response)
	return &s.response
}

// An httpBody is the Body of an httpResponse.
type httpBody httpResponse

// Read reads the body. At its end it fills in the trailers.
func (b *httpBody) Read(p []byte) (n int, err error) {
	h := (*httpResponse)(b)
	switch flags := h.enter(); {
	case flags&useGone != 0:
		h.leaveGone()
		return 0, http.ErrBodyReadAfterClose
	case flags&useClosed != 0:
		h.leave()
		return 0, http.ErrBodyReadAfterClose
	}
	if h.own.decodesHTTP() {
		n, err = h.own.Body.Read(p)
	} else {
		n, err = h.own.s.read(p)
	}
	switch {
	case err == io.EOF:
		h.takeTrailer()
	case err != nil && h.req != nil:
		err = httpError(h.req, err)
	}
	h.leave()
	return n, err
}

// takeTrailer fills in the trailers of the http.Response, whether they were announced or not.
func (h *httpResponse) takeTrailer() {
	if h.use.Or(useWhole)&useWhole != 0 {
		return
	}
	trailer := h.own.Trailer()
	if len(trailer) == 0 {
		return
	}
	if h.answer.Trailer == nil {
		h.answer.Trailer = make(http.Header)
	}
	maps.Copy(h.answer.Trailer, trailer.HTTP())
}

// Close ends the exchange. It does not block, and returns nil.
func (b *httpBody) Close() error {
	h := (*httpResponse)(b)
	if h.enter()&useGone != 0 {
		h.leaveGone()
		return nil
	}
	h.use.Or(useClosed)
	err := h.own.Body.Close()
	h.leave()
	return err
}
