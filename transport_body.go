package hyper

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// A requestBody hands the body of an http.Request to one attempt after another. The body can be
// used for the next attempt while nothing was read from it and no attempt got a response. A nil
// *requestBody is the absence of a body; it can be used for every attempt.
type requestBody struct {
	mu    sync.Mutex // never held while reading or closing
	in    io.ReadCloser
	first lentBody // used by the first attempt

	tries int32 // number of the current attempt
	state bodyState
	use   bodyUse

	reading bool          // a Read is in progress
	readEnd chan struct{} // closed when it returns; nil: nothing waits for that
	paused  chan struct{} // closed when Reads may begin again; nil: they may begin
}

// A bodyState says what has happened to a body.
type bodyState uint8

// The values of bodyState.
const (
	bodyUnread bodyState = iota // it can be sent from the beginning
	bodyRead                    // it was read from
	bodyClosed
)

// A bodyUse says which attempts need a body.
type bodyUse uint8

// The values of bodyUse.
const (
	bodyInUse    bodyUse = iota // the current attempt
	bodyReturned                // the current attempt needs no more of it, perhaps a further one does
	bodyFinal                   // an attempt got a response, so there is no further one
)

// A lentBody is the body as one attempt uses it.
type lentBody struct {
	b   *requestBody
	try int32
}

// lend hands the body to a new attempt. Earlier attempts can no longer use it.
func (b *requestBody) lend() *lentBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	b.use = bodyInUse
	if b.tries == 1 {
		b.first = lentBody{b, 1}
		return &b.first
	}
	return &lentBody{b, b.tries}
}

// rewind prepares the body for another attempt. If the body was read, getBody returns a new one.
func (b *requestBody) rewind(getBody func() (io.ReadCloser, error)) error {
	if b.takeBack() {
		return nil
	}
	return b.renew(getBody)
}

// rewindAnswered is rewind for an attempt that has a response. If the body cannot be sent again,
// the attempt keeps it. GetBody may seek in what the attempt reads from, so no Read runs meanwhile.
func (b *requestBody) rewindAnswered(getBody func() (io.ReadCloser, error)) error {
	if b == nil || b.takeBackUnread() {
		return nil
	}
	defer b.pause()()
	return b.renew(getBody)
}

// renew makes the result of getBody the body of the next attempt.
func (b *requestBody) renew(getBody func() (io.ReadCloser, error)) error {
	if getBody == nil {
		return errBodyGone
	}
	b.awaitRead() // GetBody may seek in what the last attempt reads from
	again, err := getBody()
	if err != nil {
		return err
	}
	b.replace(again)
	return nil
}

// canRewind reports whether rewind will succeed, as far as that is known in advance.
func (b *requestBody) canRewind(req *http.Request) bool {
	if b == nil || req.GetBody != nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state == bodyUnread
}

// replace makes in the body of the next attempt.
func (b *requestBody) replace(in io.ReadCloser) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != bodyClosed {
		go b.in.Close() // in a goroutine, because a Read in progress may block it
	}
	b.tries++
	b.in, b.state = in, bodyUnread
}

// awaitRead waits until a Read in progress has returned, for at most closeGrace.
func (b *requestBody) awaitRead() {
	b.mu.Lock()
	end := b.readEndLocked()
	b.mu.Unlock()
	if end == nil {
		return
	}
	select {
	case <-end:
	case <-time.After(closeGrace):
	}
}

// readEndLocked returns a channel that is closed when the Read in progress returns, or nil if there
// is none.
func (b *requestBody) readEndLocked() chan struct{} {
	if b.reading && b.readEnd == nil {
		b.readEnd = make(chan struct{})
	}
	return b.readEnd
}

// pause keeps Reads from beginning until the function that it returns is called.
func (b *requestBody) pause() (resume func()) {
	end := make(chan struct{})
	b.mu.Lock()
	b.paused = end
	b.mu.Unlock()
	return func() {
		b.mu.Lock()
		b.paused = nil
		b.mu.Unlock()
		close(end)
	}
}

// readEnded is called when a Read has returned.
func (b *requestBody) readEnded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	if b.readEnd != nil {
		close(b.readEnd)
		b.readEnd = nil
	}
}

// takeBack takes the body from the current attempt, and reports whether it is unread and open.
func (b *requestBody) takeBack() (asItWas bool) {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	return b.state == bodyUnread
}

// takeBackUnread is takeBack for a body that was not read from. It leaves any other body with its
// attempt.
func (b *requestBody) takeBackUnread() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != bodyUnread {
		return false
	}
	b.tries++
	return true
}

// errBodyGone is why a request is not sent again: its body was read, and it has no GetBody.
var errBodyGone = errors.New("the request's body was read, and GetBody is nil")

// answered is called when the current attempt has a response, so that there is no further attempt.
func (b *requestBody) answered() {
	if b == nil {
		return
	}
	b.mu.Lock()
	before := b.use
	b.use = bodyFinal
	b.mu.Unlock()
	if before == bodyReturned {
		b.close()
	}
}

// close closes the body. It waits until Close and a Read in progress have returned, because the
// caller may use what the body reads from again when RoundTrip has returned. It waits at most
// closeGrace.
func (b *requestBody) close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	in, before, reading := b.in, b.state, b.readEndLocked()
	b.state = bodyClosed
	b.mu.Unlock()
	var closed chan struct{}
	if before != bodyClosed {
		closed = make(chan struct{})
		go func() {
			defer close(closed)
			in.Close()
		}()
	}
	var over <-chan time.Time
	if closed != nil || reading != nil {
		over = time.After(closeGrace)
	}
	for _, end := range []chan struct{}{closed, reading} {
		if end == nil {
			continue
		}
		select {
		case <-end:
		case <-over:
			return
		}
	}
}

// Read reads from the body. It fails if the attempt is over.
func (l *lentBody) Read(p []byte) (int, error) {
	in := l.b.beginRead(l.try)
	if in == nil {
		return 0, errTryOver
	}
	defer l.b.readEnded()
	return in.Read(p)
}

// beginRead returns the body for a Read by the attempt try, or nil if that attempt is over. It
// waits while Reads are paused.
func (b *requestBody) beginRead(try int32) io.Reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.paused != nil {
		end := b.paused
		b.mu.Unlock()
		<-end
		b.mu.Lock()
	}
	if try != b.tries || b.state == bodyClosed {
		return nil
	}
	b.state, b.reading = bodyRead, true
	return b.in
}

// errTryOver is the error of reading the body for an attempt that is over.
var errTryOver = errors.New("hyper: body of a request that is over")

// Close is called by the stream when it needs no more of the body. It has no effect if the body was
// handed to another attempt. It leaves the body open if another attempt may use it.
func (l *lentBody) Close() error {
	b := l.b
	b.mu.Lock()
	in, mine := b.in, l.try == b.tries && b.state != bodyClosed
	switch {
	case !mine:
	case b.state == bodyUnread && b.use != bodyFinal:
		b.use, mine = bodyReturned, false
	default:
		b.state = bodyClosed
	}
	b.mu.Unlock()
	if !mine {
		return nil
	}
	return in.Close()
}
