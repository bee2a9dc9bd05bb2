// This file measures the steps of a request, for the table of --timing.

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http/httptrace"
	"sync"
	"text/tabwriter"
	"time"
)

// A span is a step with its duration. It has not happened if began is zero.
type span struct{ began, ended time.Time }

// String returns the duration.
func (s span) String() string {
	if s.began.IsZero() || s.ended.IsZero() {
		return "-"
	}
	return short(s.ended.Sub(s.began))
}

// short formats a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return number(float64(d)/float64(time.Microsecond), 3) + " us"
	case d < time.Second:
		return number(float64(d)/float64(time.Millisecond), 3) + " ms"
	}
	return number(d.Seconds(), 3) + " s"
}

// dialSteps are the steps that make a connection. Through a proxy, dns and tcp are those of the
// connection to the proxy.
type dialSteps struct {
	mu            sync.Mutex // guards the fields below
	dns, tcp, tls span
}

// watch returns a context with which a dial records its steps.
func (s *dialSteps) watch(ctx context.Context) context.Context {
	begin := func(step *span) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if step.began.IsZero() { // a host may be dialed at several addresses at once
			step.began = time.Now()
		}
	}
	end := func(step *span, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil && step.ended.IsZero() {
			step.ended = time.Now()
		}
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:          func(httptrace.DNSStartInfo) { begin(&s.dns) },
		DNSDone:           func(info httptrace.DNSDoneInfo) { end(&s.dns, info.Err) },
		ConnectStart:      func(string, string) { begin(&s.tcp) },
		ConnectDone:       func(_, _ string, err error) { end(&s.tcp, err) },
		TLSHandshakeStart: func() { begin(&s.tls) },
		TLSHandshakeDone:  func(_ tls.ConnectionState, err error) { end(&s.tls, err) },
	})
}

// spans returns the steps.
func (s *dialSteps) spans() (dns, tcp, tls span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dns, s.tcp, s.tls
}

// writeTimings writes a table of the requests. The first request of each connection has the steps
// that made it.
func (h *history) writeTimings(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "dns\ttcp\ttls\tfirst byte\ttotal\tstatus\t  url")
	for _, e := range h.list() {
		if e.pushed {
			continue
		}
		var dns, tcp, tls span
		if e.first {
			dns, tcp, tls = e.link.steps.spans()
		}
		stats := e.resp.Stats()
		fmt.Fprintf(t, "%v\t%v\t%v\t%v\t%v\t%d\t  %s\n", dns, tcp, tls, span{e.began, stats.ResponseBegan},
			span{e.began, stats.ResponseEnded}, e.resp.StatusCode, e.url)
	}
	t.Flush()
}
