package dropin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	vault "github.com/hashicorp/vault/api"
)

// retrying returns go-retryablehttp's client. Its policy decides by the status, and by the type and
// the text of net/http's errors, whether to repeat a request.
func (l *lane) retrying() *retryablehttp.Client {
	c := retryablehttp.NewClient()
	c.HTTPClient.Transport = l.Transport
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax = 3, time.Millisecond, 5*time.Millisecond
	c.Logger = nil
	return c
}

func TestRetryableHTTPTriesAgain(t *testing.T) { compare(t, tryAgain) }

// tryAgain sends requests that fail a few times.
func tryAgain(l *lane) {
	var left atomic.Int64
	url := l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if left.Add(-1) < 0 {
			fmt.Fprintf(w, "%s %d octets", r.Method, len(body))
			return
		}
		switch r.URL.Path {
		case "/503":
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(503)
		case "/429":
			w.WriteHeader(429)
		case "/501":
			w.WriteHeader(501)
		case "/404":
			w.WriteHeader(404)
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		}
	}))
	for _, path := range []string{"/503", "/429", "/501", "/404", "/abort"} {
		for _, n := range []int64{2, 10} { // number of times that the server fails
			left.Store(n)
			req, err := retryablehttp.NewRequestWithContext(l.Context(), "PUT", url+path,
				bytes.NewReader(octets(1, 200_000)))
			l.Must(err)
			resp, err := l.retrying().Do(req)
			if err != nil {
				l.Fails(fmt.Sprintf("%s %d times", path, n), err)
			} else {
				body, err := io.ReadAll(resp.Body)
				l.Must(err)
				resp.Body.Close()
				l.Report("%s %d times: %s %q", path, n, resp.Status, body)
			}
			l.Report("\t%d tries", n-left.Load())
		}
	}
	left.Store(1000)
	_, err := l.retrying().Get(url + "/loop")
	l.Fails("too many redirects", err)
	l.Report("\t%d tries", 1000-left.Load())
}

// TestRetryableHTTPGivesUp checks that the client does not repeat a request that can only fail
// again.
func TestRetryableHTTPGivesUp(t *testing.T) {
	compare(t, func(l *lane) {
		l.Loose = true
		var attempts atomic.Int64
		c := l.retrying()
		c.RequestLogHook = func(retryablehttp.Logger, *http.Request, int) { attempts.Add(1) }
		report := func(what string, req *retryablehttp.Request) {
			attempts.Store(0)
			_, err := c.Do(req)
			l.Fails(what, err)
			l.Report("\t%d tries", attempts.Load())
		}
		request := func(ctx context.Context, url string) *retryablehttp.Request {
			req, err := retryablehttp.NewRequestWithContext(ctx, "GET", url, nil)
			l.Must(err)
			return req
		}
		url := l.Serve(http.HandlerFunc(func(w http.ResponseWriter,
			r *http.Request) {
			<-r.Context().Done()
		}))

		report("refused", request(l.Context(), l.Refused()))
		report("unknown scheme", request(l.Context(), "ftp"+strings.TrimPrefix(url, "https")))
		bad := request(l.Context(), url)
		bad.Header["X-Bad"] = []string{"line\nbreak"}
		report("bad value", bad)
		bad = request(l.Context(), url)
		bad.Header["X Bad"] = []string{"value"}
		report("bad name", bad)
		// Its certificate is not trusted.
		stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
		stranger.EnableHTTP2 = true
		stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
		stranger.StartTLS()
		defer stranger.Close()
		report("unknown authority", request(l.Context(), stranger.URL))

		ctx, cancel := context.WithTimeout(l.Context(), 100*time.Millisecond)
		defer cancel()
		report("deadline", request(ctx, url))
		c.HTTPClient.Timeout = 50 * time.Millisecond
		report("Client.Timeout", request(l.Context(), url))
	})
}

// A vaultServer has the part of Vault's API that the client needs: a key-value store, tokens, and a
// standby that redirects.
type vaultServer struct {
	active string // where a standby redirects clients to

	mu     sync.Mutex
	values map[string]json.RawMessage
	sealed int // number of requests that it still refuses as sealed
}

// ServeHTTP serves the API.
func (v *vaultServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.active != "" {
		http.Redirect(w, r, v.active+r.URL.RequestURI(), http.StatusTemporaryRedirect)
		return
	}
	if v.sealed > 0 {
		v.sealed--
		w.WriteHeader(503)
		io.WriteString(w, `{"errors":["Vault is sealed"]}`)
		return
	}
	if r.Header.Get("X-Vault-Token") != "root" {
		w.WriteHeader(403)
		io.WriteString(w, `{"errors":["permission denied"]}`)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	switch value, ok := v.values[path]; {
	case r.Method == "PUT" || r.Method == "POST":
		body, _ := io.ReadAll(r.Body)
		v.values[path] = body
		w.WriteHeader(204)
	case r.Method == "LIST" || r.URL.Query().Get("list") == "true":
		keys := []string{}
		for i := range 100 {
			if _, ok := v.values[fmt.Sprintf("%s/%02d", path, i)]; ok {
				keys = append(keys, fmt.Sprintf("%02d", i))
			}
		}
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"keys": keys}})
	case r.Method == "DELETE":
		delete(v.values, path)
		w.WriteHeader(204)
	case !ok:
		w.WriteHeader(404)
		io.WriteString(w, `{"errors":[]}`)
	default:
		json.NewEncoder(w).Encode(map[string]any{"request_id": "1", "lease_duration": 60, "data": value,
			"warnings": []string{"a test"}})
	}
}

func TestVault(t *testing.T) { compare(t, useVault) }

// useVault uses the key-value store.
func useVault(l *lane) {
	server := &vaultServer{values: make(map[string]json.RawMessage)}
	active := l.Serve(server)
	standby := l.Serve(&vaultServer{active: active})
	client := func(url, token string) *vault.Client {
		cfg := vault.DefaultConfig()
		l.Must(cfg.Error)
		cfg.Address = url
		cfg.HttpClient.Transport = l.Transport
		cfg.MinRetryWait, cfg.MaxRetryWait, cfg.MaxRetries = time.Millisecond, 5*time.Millisecond, 3
		c, err := vault.NewClient(cfg)
		l.Must(err)
		c.SetToken(token)
		return c
	}
	ctx, c := l.Context(), client(standby, "root")
	refusal := func(what string, err error) {
		l.Helper()
		e, ok := errors.AsType[*vault.ResponseError](err)
		if !ok {
			l.Errorf("%s: %T %v", what, err, err)
			return
		}
		l.Report("%s: %d %s %s %q", what, e.StatusCode, e.HTTPMethod, e.URL, e.Errors)
	}
	for i := range 10 {
		_, err := c.Logical().WriteWithContext(ctx, fmt.Sprintf("kv/dir/%02d", i),
			map[string]any{"n": i, "pad": strings.Repeat("x", i*1000)})
		l.Must(err)
	}
	secret, err := c.Logical().ReadWithContext(ctx, "kv/dir/07")
	l.Must(err)
	l.Report("read %v, %d s, %v, warned %v", secret.Data["n"], secret.LeaseDuration,
		len(secret.Data["pad"].(string)), secret.Warnings)
	list, err := c.Logical().ListWithContext(ctx, "kv/dir")
	l.Must(err)
	l.Report("list %v", list.Data)
	_, err = c.Logical().DeleteWithContext(ctx, "kv/dir/07")
	l.Must(err)
	secret, err = c.Logical().ReadWithContext(ctx, "kv/dir/07")
	l.Report("deleted: %v %v", secret, err)

	_, err = client(standby, "guess").Logical().ReadWithContext(ctx, "kv/dir/01")
	refusal("stranger", err)
	for _, times := range []int{2, 10} {
		server.mu.Lock()
		server.sealed = times
		server.mu.Unlock()
		_, err = c.Logical().ReadWithContext(ctx, "kv/dir/01")
		if err != nil {
			refusal("sealed", err)
		}
		server.mu.Lock()
		l.Report("sealed %d times: %d left", times, server.sealed)
		server.sealed = 0
		server.mu.Unlock()
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = c.Logical().ReadWithContext(ended, "kv/dir/01")
	l.Fails("canceled", err)
	_, err = client(l.Refused(), "root").Logical().ReadWithContext(ctx, "kv/dir/01")
	l.Fails("refused", err)
}
