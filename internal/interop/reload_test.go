package interop

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// fetchPage gets a page through rt, and returns the body of the response.
func fetchPage(ctx context.Context, rt http.RoundTripper, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 200 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return resp.Body, nil
}

// A reloading is a Transport under load, while its server reloads.
type reloading struct {
	*running
	rt   *hyper.Transport
	url  string
	done atomic.Int64 // responses that were complete and correct
}

// checkReload makes the server reload under load. No request may fail, and a download that began
// before must be complete. At the end requests use a connection that is new.
func checkReload(t testing.TB, r *running) {
	// lighttpd accepts no connection before the last response on an old one ends.
	cfg := &hyper.Config{TLS: h2test.ClientTLS(), HandshakeTimeout: checkTimeout, KeepAlive: r.keepAlive}
	x := &reloading{running: r, url: "https://" + r.addr,
		rt: &hyper.Transport{Proxy: hyper.NoProxy, Config: cfg}}
	defer x.rt.CloseIdleConnections()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	began, reloaded, downloaded := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	wg.Go(func() { downloaded <- x.slowly(ctx, began, reloaded) })
	for range 10 {
		wg.Go(func() {
			if err := x.often(ctx); err != nil {
				t.Errorf("after %d requests: %v", x.done.Load(), err)
				cancel()
			}
		})
	}
	x.until(ctx, t, "the load", func() bool { return x.done.Load() >= 100 })
	select {
	case <-began:
	case <-ctx.Done():
		t.Fatal("the download did not begin")
	}
	before := x.rt.Stats().Total.ConnsOpened
	r.reload()
	time.AfterFunc(100*time.Millisecond, func() { close(reloaded) })
	x.until(ctx, t, "a new connection", func() bool { return x.rt.Stats().Total.ConnsOpened > before })
	after := x.done.Load()
	x.until(ctx, t, "requests on it", func() bool { return x.done.Load() >= after+100 })
	select {
	case err := <-downloaded:
		check(t, err)
	case <-ctx.Done():
		t.Error("the download did not end")
	}
	t.Logf("%d requests on %d connections", x.done.Load(), x.rt.Stats().Total.ConnsOpened)
}

// until waits until a condition holds.
func (x *reloading) until(ctx context.Context, t testing.TB, what string, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s did not come: %d requests on %d connections", what, x.done.Load(),
				x.rt.Stats().Total.ConnsOpened)
		}
	}
}

// often fetches the small page until ctx is done, or until it fails.
func (x *reloading) often(ctx context.Context) error {
	for ctx.Err() == nil {
		body, err := x.page(ctx, x.rt, x.url+"/small.txt")
		if err == nil {
			var got []byte
			got, err = io.ReadAll(body)
			body.Close()
			if err == nil && string(got) != x.small {
				err = fmt.Errorf("got %q", got)
			}
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		x.done.Add(1)
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// slowly fetches the large file. It closes began when it has a part of it, and reads at full speed
// after reloaded is closed. It does not stop reading before: HAProxy would not serve other requests
// then, as it gets their responses on the same connection from the origin.
func (x *reloading) slowly(ctx context.Context, began, reloaded chan struct{}) error {
	body, err := x.page(ctx, x.rt, x.url+"/large.bin")
	if err != nil {
		return err
	}
	defer body.Close()
	sum, err := sumOf(io.MultiReader(readerFunc(func(p []byte) (int, error) {
		select {
		case <-reloaded:
			return 0, io.EOF // go on with the next reader
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
		n, err := io.ReadFull(body, p[:min(len(p), 16<<10)])
		if began != nil {
			close(began)
			began = nil
		}
		return n, err
	}), body))
	if err == nil && sum != x.largeSum {
		err = fmt.Errorf("the download has SHA-256 %s", sum)
	}
	return err
}
