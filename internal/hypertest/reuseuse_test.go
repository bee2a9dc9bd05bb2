// This file holds what the callers of TestReuseModel do with a response.

package hypertest

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"gohyper.dev/hyper"
)

// begin checks the response, and changes its header in some exchanges. It may be a response that
// the peer sent too early.
func (e *reuseExchange) begin() {
	e.want = e.number
	if !e.door.calm && e.resp.Header.Get("X-Number") == early {
		e.want = early
	}
	e.check()
	if e.c.chance(3) {
		e.take()
	}
	if !e.c.chance(4) {
		return
	}
	e.changed = true
	h := e.resp.Header
	for _, values := range h {
		_ = append(values, "foreign")
	}
	h.Add("X-Number", "changed by "+e.number)
	h.Set("X-Mine", e.number)
}

// check checks what the caller has of the response, except for the body.
func (e *reuseExchange) check() {
	h := e.resp.Header
	for name, values := range h {
		switch {
		case name == "X-Number" && e.changed && len(values) == 2 && values[1] == "changed by "+e.number:
			values = values[:1]
		case name == "X-Mine" && e.changed && values[0] == e.number, !strings.HasPrefix(name, "X-"):
			continue
		}
		for _, value := range values {
			if !strings.HasSuffix(value, e.want) {
				e.errorf("%s: %q", name, value)
			}
		}
	}
	if len(h["X-Number"]) == 0 || e.changed && h.Get("X-Mine") != e.number {
		e.errorf("the header is %v", h)
	}
	for _, value := range e.resp.Trailer["X-Sum"] {
		if value != e.want {
			e.errorf("a trailer of %q", value)
		}
	}
	req := e.resp.Request
	if numberOf(req.URL.Path) != e.number || req.Header.Get("X-Number") != e.number ||
		req.Method != e.method && e.method != "POST" { // a redirect makes it GET
		e.errorf("the request is %v %v", req.Method, req.URL)
	}
	if text := http.StatusText(e.resp.StatusCode); text == "" || !strings.HasSuffix(e.resp.Status, text) {
		e.errorf("status %d, %q", e.resp.StatusCode, e.resp.Status)
	}
	e.checkOwn(e.own)
}

// checkOwn checks the Response of the exchange.
func (e *reuseExchange) checkOwn(own *hyper.Response) {
	if own == nil {
		return
	}
	for _, f := range own.Header {
		if strings.HasPrefix(f.Name, "x-") && !strings.HasSuffix(f.Value, e.want) {
			e.errorf("the Response has %s: %q", f.Name, f.Value)
		}
	}
	if own.Header.Get("x-number") != e.want || numberOf(own.Request.Path) != e.number ||
		own.Request.Header.Get("x-number") != e.number {
		e.errorf("the Response has %v, %+v", own.Header, own.Request)
	}
	if s := own.Stream(); own.StreamID != s.ID() || s.Conn() == nil {
		e.errorf("stream %d of the Response %d", s.ID(), own.StreamID)
	}
	if sum := own.Trailer().Get("x-sum"); sum != "" && sum != e.want {
		e.errorf("the Response has the trailer %q", sum)
	}
}

// take takes the Response from the http.Response.
func (e *reuseExchange) take() {
	if own, ok := hyper.ResponseFromHTTP(e.resp); ok {
		e.checkOwn(own)
		e.own = own
	}
}

// read reads from the body into p. inOrder is whether no other call reads it.
func (e *reuseExchange) read(p []byte, inOrder bool) error {
	n, err := e.resp.Body.Read(p)
	from := strings.Repeat(e.want, n/len(e.want)+2)
	got := string(p[:n])
	if inOrder {
		at := e.at % len(e.want)
		e.at += n
		if got != from[at:][:n] {
			e.errorf("%q in the body at %d", got, e.at-n)
		}
	} else if !strings.Contains(from, got) {
		e.errorf("%q in the body", got)
	}
	return err
}

// readAll reads the body to its end.
func (e *reuseExchange) readAll(size int, inOrder bool) error {
	p := make([]byte, size)
	for {
		if err := e.read(p, inOrder); err != nil {
			return err
		}
	}
}

// use reads the body, or a part of it, alone or together with other goroutines.
func (e *reuseExchange) use() {
	c, size := e.c, 1+e.c.r.IntN(4000)
	lazily(c.r)
	switch c.r.IntN(8) {
	case 0: // it is not read
	case 1:
		e.read(make([]byte, size), true)
	case 2: // two readers
		var other sync.WaitGroup
		other.Go(func() { e.readAll(size, false) })
		e.readAll(1+c.r.IntN(100), false)
		other.Wait()
	case 3: // closed by others meanwhile
		e.readAndClose(size)
	case 4:
		if e.own != nil && e.door.url == "http://push.test" {
			e.usePushes()
		}
		fallthrough
	default:
		err := e.readAll(size, true)
		if err != io.EOF && e.door.calm && !e.ends {
			e.errorf("the body ends with %v", err)
		}
		length := e.resp.ContentLength
		if err == io.EOF && e.method != "HEAD" && length >= 0 && int64(e.at) != length {
			e.errorf("a body of %d bytes, and not of %d", e.at, length)
		}
	}
}

// readAndClose reads the body while other goroutines close it, or take the Response.
func (e *reuseExchange) readAndClose(size int) {
	var others sync.WaitGroup
	for range 1 + e.c.r.IntN(3) {
		wait, takes := time.Duration(e.c.r.IntN(500))*time.Microsecond, e.c.chance(3)
		others.Go(func() {
			time.Sleep(wait)
			if own, ok := hyper.ResponseFromHTTP(e.resp); takes && ok {
				e.checkOwn(own)
			}
			e.resp.Body.Close()
		})
	}
	e.readAll(size, true)
	others.Wait()
}

// usePushes reads what the peer pushes.
func (e *reuseExchange) usePushes() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
	defer cancel()
	for p, err := range e.own.Pushes(ctx) {
		if err != nil {
			return
		}
		resp, err := p.Response(ctx)
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		if want := strings.Repeat(early, len(body)/len(early)+1); !strings.HasPrefix(want, string(body)) {
			e.errorf("%q in a push", body)
		}
		resp.Body.Close()
	}
}

// end closes the body, once or several times.
func (e *reuseExchange) end() {
	var others sync.WaitGroup
	for range max(0, e.c.r.IntN(6)-3) {
		others.Go(func() { e.resp.Body.Close() })
	}
	if err := e.resp.Body.Close(); err != nil && e.door.calm && !e.ends {
		e.errorf("Close: %v", err)
	}
	others.Wait()
	if n, err := e.resp.Body.Read(make([]byte, 9)); n != 0 || err == nil && e.resp.Body != http.NoBody {
		e.errorf("Read after Close: %d, %v", n, err)
	}
	first, ok := hyper.ResponseFromHTTP(e.resp)
	if second, _ := hyper.ResponseFromHTTP(e.resp); ok && first != second {
		e.c.m.reused.Add(1)
	}
	e.checkOwn(first)
}

// useLate uses a response after its body was closed.
func (e *reuseExchange) useLate() {
	e.check()
	if n, err := e.resp.Body.Read(make([]byte, 9)); n != 0 || err == nil {
		e.errorf("a late Read: %d, %v", n, err)
	}
	e.resp.Body.Close()
	if e.c.chance(2) {
		e.take()
	}
	own := e.own
	if own == nil {
		return
	}
	s := own.Stream()
	switch e.c.r.IntN(8) {
	case 0:
		s.Reset(hyper.ErrCodeCancel)
	case 1:
		s.SetDeadline(time.Now().Add(time.Duration(e.c.r.IntN(1000)) * time.Microsecond))
	case 2:
		s.Write([]byte("late"))
	case 3:
		if again, err := s.Response(context.Background()); err == nil {
			e.checkOwn(again)
		}
	case 4:
		if st := s.Stats(); st.BytesRead > st.BytesReceived || st.BytesRead < 0 {
			e.errorf("the figures are %+v", st)
		}
	case 5:
		s.CloseWrite()
	case 6:
		<-s.Done()
		_ = s.Err()
	}
	if n, err := own.Body.Read(make([]byte, 9)); n != 0 || err == nil {
		e.errorf("a late Read of the Response: %d, %v", n, err)
	}
	own.Body.Close()
	e.checkOwn(own)
}
