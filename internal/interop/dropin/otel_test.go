package dropin

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/httptrace/otelhttptrace"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"

	"gohyper.dev/hyper/internal/lanes"
)

// Example_openTelemetry traces requests with otelhttp, which makes a span of each request, and
// otelhttptrace, which makes one of each phase. otelhttp wraps the body, so that the program gets
// hyper's own Response, with the stream's identifier, through WithResponse.
func Example_openTelemetry() {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s, part of a trace: %t", r.Proto, r.Header.Get("Traceparent") != "")
	}))
	server.EnableHTTP2 = true
	server.TLS = h2test.ServerTLS()
	server.StartTLS()
	defer server.Close()

	spans := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	defer provider.Shutdown(context.Background())

	transport := &hyper.Transport{Config: &hyper.Config{TLS: h2test.ClientTLS()}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: otelhttp.NewTransport(transport,
		otelhttp.WithTracerProvider(provider),
		otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithClientTrace(func(ctx context.Context) *httptrace.ClientTrace {
			return otelhttptrace.NewClientTrace(ctx)
		}),
	)}

	for range 2 { // the second request uses the connection of the first
		ctx := hyper.WithResponse(context.Background(),
			func(r *hyper.Response) { fmt.Print("stream ", r.StreamID, ": ") })
		req, err := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
		if err != nil {
			log.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Printf("%s\n", body)
	}
	for _, line := range spanLines(spans) {
		fmt.Println(line)
	}

	// Output:
	// stream 1: HTTP/2.0, part of a trace: true
	// stream 3: HTTP/2.0, part of a trace: true
	// HTTP GET > http.getconn Unset http.conn.reused=false
	// HTTP GET > http.getconn Unset http.conn.reused=true
	// HTTP GET > http.headers Unset
	// HTTP GET > http.headers Unset
	// HTTP GET > http.send Unset
	// HTTP GET > http.send Unset
	// HTTP GET Unset network.protocol.version=2.0 http.response.status_code=200
	// HTTP GET Unset network.protocol.version=2.0 http.response.status_code=200
	// http.getconn > http.connect Unset
	// http.getconn > http.tls Unset
}

// spanLines describes the spans that have ended, one a line. It leaves out what differs from run to
// run.
func spanLines(spans *tracetest.SpanRecorder) (lines []string) {
	names := make(map[string]string)
	for _, s := range spans.Started() {
		names[s.SpanContext().SpanID().String()] = s.Name()
	}
	for _, s := range spans.Ended() {
		line := s.Name()
		if parent := names[s.Parent().SpanID().String()]; parent != "" {
			line = parent + " > " + line
		}
		line += " " + s.Status().Code.String()
		for _, a := range s.Attributes() {
			switch a.Key {
			case "http.response.status_code", "http.conn.reused", "network.protocol.version":
				line += fmt.Sprintf(" %s=%s", a.Key, a.Value.String())
			case "error.type":
				// The name of a type, which differs between transports.
				line += " error.type"
			}
		}
		for _, e := range s.Events() {
			line += " event " + e.Name
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// ended reports whether a span with this name has ended.
func ended(spans *tracetest.SpanRecorder, name string) bool {
	return slices.ContainsFunc(spans.Ended(), func(s trace.ReadOnlySpan) bool { return s.Name() == name })
}

// TestOpenTelemetry checks that the spans and their events are the same with both transports.
func TestOpenTelemetry(t *testing.T) {
	compare(t, func(l *lane) {
		l.Vary = []string{"Traceparent"}
		l.Loose = true
		url := l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			switch r.URL.Path {
			case "/hints":
				w.WriteHeader(103)
			case "/404":
				w.WriteHeader(404)
			case "/abort":
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, "hello")
		}))
		get := func(url string, body io.Reader, change func(*http.Request)) {
			spans := tracetest.NewSpanRecorder()
			provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
			client := &http.Client{Transport: otelhttp.NewTransport(l.Transport,
				otelhttp.WithTracerProvider(provider),
				otelhttp.WithPropagators(propagation.TraceContext{}),
				otelhttp.WithClientTrace(func(ctx context.Context) *httptrace.ClientTrace {
					return otelhttptrace.NewClientTrace(ctx)
				}),
			)}
			method := "GET"
			if body != nil {
				method = "POST"
			}
			req, err := http.NewRequestWithContext(l.Context(), method, url, body)
			l.Must(err)
			change(req)
			resp, err := client.Do(req)
			if err == nil {
				_, _, err = lanes.Sum(resp.Body)
				l.Must(err)
				resp.Body.Close()
			}
			for deadline := time.Now().Add(10 * time.Second); body != nil && !ended(spans, "http.send") &&
				time.Now().Before(deadline); {
				// httptrace's WroteRequest may come after the response.
				time.Sleep(time.Millisecond)
			}
			l.Must(provider.Shutdown(context.Background()))
			l.Report("%s %s: %s", method, url, strings.Join(spanLines(spans), "\n\t"))
		}
		as := func(*http.Request) {}
		get(url+"/first", nil, as)
		get(url+"/second", nil, as)
		get(url+"/404", nil, as)
		get(url+"/hints", nil, as)
		get(url+"/upload", strings.NewReader(strings.Repeat("x", 100_000)), as)
		get(url+"/expect", strings.NewReader("x"),
			func(r *http.Request) { r.Header.Set("Expect", "100-continue") })
		get(url+"/abort", nil, as)
		get(l.Refused(), nil, as)
	})
}
