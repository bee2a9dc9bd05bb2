package dropin

import (
	"context"
	"go/token"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"gohyper.dev/hyper/internal/lanes"
)

// TestOpenTelemetryErrorTypes checks error.type, which is the name of the type of the error that
// RoundTrip, or a body's Read, returned. It is never an unexported type of hyper.
func TestOpenTelemetryErrorTypes(t *testing.T) {
	compareAll(t, func(l *lane) {
		l.Loose = true
		l.Vary = []string{"Traceparent"}
		url := l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/abort":
				panic(http.ErrAbortHandler)
			case "/cut":
				io.WriteString(w, "some")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			case "/wait":
				<-r.Context().Done()
			}
		}))
		stranger := strings.Replace(url, "127.0.0.1", "no-such-host.invalid", 1)
		for _, c := range [][2]string{{"reset", url + "/abort"}, {"reset in the body", url + "/cut"},
			{"refused", l.Refused()}, {"no such host", stranger}} {
			l.errorType(c[0], c[1], time.Minute)
		}
		l.errorType("deadline", url+"/wait", 300*time.Millisecond)
		for _, trouble := range []lanes.Trouble{lanes.Reset, lanes.Closed} {
			l.errorType(trouble.String(), l.Front(url, trouble).URL, time.Minute)
		}
	})
}

// errorType sends a request that fails, and checks error.type in its span. The request is not
// idempotent, so that it is not sent again when its connection is lost.
func (l *lane) errorType(name, url string, limit time.Duration) {
	spans := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	client := &http.Client{Transport: otelhttp.NewTransport(l.Transport,
		otelhttp.WithTracerProvider(provider))}
	ctx, cancel := context.WithTimeout(l.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", url, nil)
	l.Must(err)
	resp, err := client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		l.Errorf("%s: no error", name)
	}
	l.Must(provider.Shutdown(context.Background()))
	l.Fails(name, err)
	found := 0
	for _, span := range spans.Ended() {
		for _, a := range span.Attributes() {
			if a.Key != "error.type" {
				continue
			}
			found++
			typ := a.Value.AsString()
			l.Logf("%s: %s", name, typ)
			pkg, typ := typ[:strings.LastIndexByte(typ, '.')], typ[strings.LastIndexByte(typ, '.')+1:]
			if strings.HasPrefix(pkg, "gohyper.dev/") && !token.IsExported(typ) {
				l.Errorf("%s: error.type is %s.%s", name, pkg, typ)
			}
		}
	}
	if found == 0 {
		l.Errorf("%s: no error.type", name)
	}
}
