package flowsim

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"gohyper.dev/hyper"
)

// smallSize is the length of the response to a small request, in bytes.
const smallSize = 1 << 10

// askOften sends a small request every SmallEvery, until the transfer ends.
func (r *run) askOften() {
	if r.SmallEvery == 0 {
		return
	}
	transfer := r.started
	var ask func()
	ask = func() {
		if r.started != transfer || r.due == 0 {
			return
		}
		r.After(r.SmallEvery, ask)
		req := &hyper.Request{Method: "GET", Path: "/small", Body: http.NoBody}
		s, err := r.conn.Open(context.Background(), req)
		if r.note(err); err == nil {
			r.server.sizes = append(r.server.sizes, smallSize)
			go r.readSmall(s, r.now)
		}
	}
	r.After(r.SmallEvery, ask)
}

// readSmall is a goroutine that reads the response to a small request that was made at asked.
func (r *run) readSmall(s *hyper.Stream, asked time.Duration) {
	resp, err := s.Response(context.Background())
	p := make([]byte, smallSize)
	for err == nil {
		var n int
		if n, err = resp.Body.Read(p); n > 0 {
			r.readers.Lock()
			r.books.took(s.ID(), n)
			r.readers.Unlock()
		}
	}
	r.readers.Lock()
	defer r.readers.Unlock()
	switch {
	case errors.Is(err, io.EOF):
		r.latencies = append(r.latencies, time.Since(r.began)-asked)
	case !errors.Is(err, hyper.ErrClosed):
		r.note(err)
	}
}

// summarize adds the latencies of the small requests to the result.
func (r *run) summarize() {
	slices.Sort(r.latencies)
	n := len(r.latencies)
	if r.result.Small = n; n > 0 {
		r.result.SmallMedian = r.latencies[n/2]
		r.result.SmallP95 = r.latencies[min(n-1, n*95/100)]
	}
	r.latencies = nil
}
