package dropin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resty/resty/v2"
)

func TestResty(t *testing.T) { compareAll(t, useResty) }

// useResty sends requests of all kinds.
func useResty(l *lane) {
	l.Masks = append(l.Masks, multipartBoundary)
	var left, goAways atomic.Int64
	url := l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if goAways.Add(-1) >= 0 {
			w.Header().Set("Connection", "close") // Go's server sends GOAWAY
		}
		if left.Add(-1) >= 0 {
			if r.URL.Path == "/abort" {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(503)
			return
		}
		serveResty(w, r)
	}))
	c := resty.NewWithClient(l.Client()).SetBaseURL(url).SetRetryCount(3)
	c.SetRetryWaitTime(time.Millisecond).SetRetryMaxWaitTime(10 * time.Millisecond)
	c.AddRetryCondition(func(r *resty.Response, err error) bool { return r.StatusCode() == 503 })
	c.SetLogger(quiet{})
	defer c.GetClient().CloseIdleConnections()

	var answer struct{ Name, Method string }
	resp, err := c.R().SetResult(&answer).SetQueryParam("q", "a b").SetPathParam("name",
		"x/y").Get("/json/{name}")
	l.Must(err)
	l.Report("%s %s %+v %s", resp.Status(), resp.Proto(), answer, resp.Header().Get("Content-Type"))
	resp, err = c.R().SetBody(map[string]any{"a": 1}).SetResult(&answer).Put("/json/put")
	l.Must(err)
	l.Report("%s %+v", resp.Status(), answer)
	resp, err = c.R().SetFormData(map[string]string{"field": "value"}).
		SetFileReader("file", "file.bin", bytes.NewReader(octets(3, 300_000))).Post("/form")
	l.Must(err)
	l.Report("%s %s", resp.Status(), resp.Body())
	var refusal struct{ Error string }
	resp, err = c.R().SetError(&refusal).Get("/error")
	l.Must(err)
	l.Report("%s %v %s", resp.Status(), resp.IsError(), refusal.Error)
	resp, err = c.R().SetDoNotParseResponse(true).Get("/stream")
	l.Must(err)
	n, err := io.Copy(io.Discard, resp.RawBody())
	l.Report("stream: %d octets, %v", n, err)
	resp.RawBody().Close()
	useRestyTrouble(l, c, &left, &goAways)
	l.Try("resty", url, func(ctx context.Context, url string) (string, error) {
		resp, err := c.R().SetContext(ctx).SetBody("hello").SetResult(&answer).Post(url + "/json/front")
		return fmt.Sprint(resp.Status(), " ", answer.Name), err
	})
}

// useRestyTrouble sends requests that fail left times, and requests whose responses come with
// GOAWAY.
func useRestyTrouble(l *lane, c *resty.Client, left, goAways *atomic.Int64) {
	goAways.Store(3)
	for i := range 6 {
		resp, err := c.R().Get("/json/goaway")
		l.Must(err)
		l.Report("GOAWAY %d: %s", i, resp.Status())
	}
	for _, path := range []string{"/json/busy", "/abort"} {
		for _, times := range []int64{2, 10} {
			left.Store(times)
			resp, err := c.R().SetBody(octets(1, 100_000)).Post(path)
			if err != nil {
				l.Fails(path, err)
			}
			l.Report("%s %d times: %d, %d attempts, %d seen",
				path, times, resp.StatusCode(), resp.Request.Attempt, times-left.Load())
			left.Store(0)
		}
	}
	ctx, cancel := context.WithTimeout(l.Context(), 300*time.Millisecond)
	_, err := c.R().SetContext(ctx).Get("/wait")
	l.Fails("deadline", err)
	cancel()
	_, err = c.R().Get(l.Refused())
	l.Fails("refused", err)
}

// quiet is a logger that discards everything.
type quiet struct{}

// Errorf discards an error.
func (quiet) Errorf(string, ...any) {}

// Warnf discards a warning.
func (quiet) Warnf(string, ...any) {}

// Debugf discards a message.
func (quiet) Debugf(string, ...any) {}

// serveResty is the server of the requests that do not fail.
func serveResty(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasPrefix(r.URL.Path, "/json/"):
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, `{"name":%q,"method":%q}`, strings.TrimPrefix(r.URL.EscapedPath(), "/json/"), r.Method)
	case r.URL.Path == "/form":
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			w.WriteHeader(400)
			return
		}
		file := r.MultipartForm.File["file"][0]
		fmt.Fprintf(w, "%q %s %d", r.MultipartForm.Value, file.Filename, file.Size)
	case r.URL.Path == "/stream":
		for range 100 {
			w.Write(octets(1, 10_000))
			w.(http.Flusher).Flush()
		}
	case r.URL.Path == "/wait":
		<-r.Context().Done()
	default:
		w.WriteHeader(404)
		io.WriteString(w, `{"error":"not there"}`)
	}
}

// multipartBoundary matches what depends on the boundary of a multipart body, which is random.
var multipartBoundary = regexp.MustCompile(`boundary=[0-9a-f]+|length [0-9]+ |body [0-9a-f]{64}`)
