package flowsim

import (
	"context"
	"errors"
	"io"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
)

// readAll is a goroutine that reads a response to its end. A slow reader reads at most frameSize
// bytes, and reads on when these bytes are processed. All streams share one processor, which takes
// the bytes in the order in which they were read.
func (r *run) readAll(s *hyper.Stream) {
	resp, err := s.Response(context.Background())
	p := make([]byte, frameSize)
	for err == nil {
		r.pause()
		var n int
		n, err = resp.Body.Read(p)
		if n > 0 {
			r.took(s.ID(), n)
		}
		if n > 0 && r.Reader > 0 {
			r.process(n)
		}
	}
	r.readers.Lock()
	defer r.readers.Unlock()
	if !errors.Is(err, io.EOF) && !errors.Is(err, hyper.ErrClosed) {
		r.note(err)
	}
	r.due--
}

// readUntilStop is a goroutine that reads a response until StopAt.
func (r *run) readUntilStop(s *hyper.Stream) {
	resp, err := s.Response(context.Background())
	p := make([]byte, frameSize)
	for err == nil && r.now < r.started+r.StopAt {
		var n int
		n, err = resp.Body.Read(p)
		r.readers.Lock()
		r.books.took(s.ID(), n)
		r.readers.Unlock()
	}
	if err != nil && !errors.Is(err, hyper.ErrClosed) {
		r.readers.Lock()
		defer r.readers.Unlock()
		r.note(err)
	}
}

// took counts n bytes that were read.
func (r *run) took(stream uint32, n int) {
	r.readers.Lock()
	defer r.readers.Unlock()
	r.books.took(stream, n)
	r.read += int64(n)
	if r.result.FirstMB == 0 && r.read >= 1<<20 {
		r.result.FirstMB = r.now - r.started
	}
}

// process returns when a slow reader has processed n bytes.
func (r *run) process(n int) {
	r.readers.Lock()
	r.free = max(r.free, r.now) + seconds(float64(n)/r.Reader)
	free := r.free
	r.readers.Unlock()
	r.waitUntil(free)
}

// pause returns when the reader reads on, if it pauses.
func (r *run) pause() {
	at := r.now - r.started - r.PauseAt
	if r.PauseFor == 0 || at < 0 {
		return
	}
	if r.PauseEvery > 0 {
		at %= r.PauseEvery
	}
	if at < r.PauseFor {
		r.waitUntil(r.now - at + r.PauseFor)
	}
}

// waitUntil returns at a time, or when the connection is closed.
func (r *run) waitUntil(at time.Duration) {
	done := make(chan struct{})
	r.readers.Lock()
	r.at(at, func() {
		close(done)
		synctest.Wait()
	})
	r.readers.Unlock()
	select {
	case <-done:
	case <-r.socket.closed:
	}
}

// withPauses returns how long a reader needs for what takes d without pauses.
func (s Scenario) withPauses(d time.Duration) time.Duration {
	left := d - s.PauseAt
	switch {
	case s.PauseFor == 0 || left <= 0:
		return d
	case s.PauseEvery == 0:
		return d + s.PauseFor
	}
	return d + s.PauseFor*(1+left/(s.PauseEvery-s.PauseFor))
}
