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
	done := make(chan struct{})
	r.readers.Lock()
	r.free = max(r.free, r.now) + time.Duration(float64(n)/r.Reader*float64(time.Second))
	r.at(r.free, func() {
		close(done)
		synctest.Wait()
	})
	r.readers.Unlock()
	select {
	case <-done:
	case <-r.socket.closed:
	}
}
