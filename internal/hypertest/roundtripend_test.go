// This file tests how an exchange of Conn.RoundTrip ends.

package hypertest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// requestCanceled returns the error of a request that its Cancel ended before RoundTrip.
func requestCanceled(t *testing.T) error {
	t.Helper()
	ended := make(chan struct{})
	close(ended)
	req := httpRequest(t, "GET", "https://example.com/", nil)
	//lint:ignore SA1019 http.Client still sets it
	req.Cancel = ended
	_, err := (&hyper.Transport{Proxy: hyper.NoProxy}).RoundTrip(req)
	if err == nil || err.Error() != "hyper: request canceled by http.Request.Cancel" {
		t.Fatalf("Request.Cancel was closed before: %v", err)
	}
	return err
}

// "ctx.Err() … unwrapped": http.Client and its callers compare errors with ==.
func TestRoundTripReturnsTheContextsError(t *testing.T) {
	canceled := requestCanceled(t)
	tests := []struct {
		name   string
		cancel func(req *http.Request) (*http.Request, func())
		want   error
	}{
		{"cancelled", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithCancelCause(req.Context())
			return req.WithContext(ctx), func() { cancel(errCancelCause) }
		}, context.Canceled},
		{"its deadline", func(req *http.Request) (*http.Request, func()) {
			ctx, cancel := context.WithTimeout(req.Context(), time.Minute)
			return req.WithContext(ctx), func() { time.Sleep(time.Minute); _ = cancel }
		}, context.DeadlineExceeded},
		{"Request.Cancel", func(req *http.Request) (*http.Request, func()) {
			ended := make(chan struct{})
			//lint:ignore SA1019 http.Client still sets it
			req.Cancel = ended
			return req, func() { close(ended) }
		}, canceled},
	}
	for _, test := range tests {
		t.Run(test.name+", before the response", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.AutoPing()
				req, cancel := test.cancel(httpRequest(t, "GET", "https://example.com/", nil))
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				cancel()
				if err := answer.WantErr(t, "the request"); err != test.want {
					t.Errorf("%#v", err)
				}
				peer.WantRSTStream("no call waits any more", 1, wire.Cancel)
			})
		})
		t.Run(test.name+", in the body", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.AutoPing()
				req, cancel := test.cancel(httpRequest(t, "GET", "https://example.com/", nil))
				answer := tripAsync(conn, req)
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				resp := answer.Want(t, "the response")
				peer.WriteData(1, 0, []byte("hel"))
				h2test.ReadBytes(t, resp.Body, 3)
				go cancel()
				if _, err := resp.Body.Read(make([]byte, 1)); err != test.want {
					t.Errorf("%#v", err)
				}
				peer.WantRSTStream("it is not read any more", 1, wire.Cancel)
			})
		})
		t.Run(test.name+", waiting for a stream", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
				peer.AutoPing()
				first := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
				peer.WantHeaders("the first", 1)
				req, cancel := test.cancel(httpRequest(t, "GET", "https://example.com/", nil))
				second := tripAsync(conn, req)
				synctest.Wait()
				cancel()
				err := second.WantErr(t, "the second")
				if says := strings.Contains(err.Error(),
					"waiting for the peer's only stream: "+test.want.Error()); !errors.Is(err, test.want) ||
					says == (test.want == canceled) {
					t.Errorf("%#v", err)
				}
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				first.Want(t, "the first").Body.Close()
				peer.WantIdle("the second was never sent")
			})
		})
	}
}

// Body.Close before the end sends RST_STREAM(CANCEL), returns the credit and frees the slot. It
// does not wait for the network.
func TestRoundTripBodyCloseEndsTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unread atomic.Int64 // in the connection's window
		giveBack := func(w *hyper.Window) hyper.WindowManager {
			return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
				if w.StreamID() == 0 {
					unread.Store(int64(ev.Unread))
				}
				return ev.Consumed()
			})
		}
		peer, conn, client := newPeer(t, &hyper.Config{WriteStallTimeout: -1, KeepAlive: -1,
			WindowManager: giveBack})
		peer.Handshake()
		peer.Ignore(wire.WindowUpdate)
		answer := tripAsync(conn, httpRequest(t, "GET", "https://example.com/", nil))
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 1000))
		resp := answer.Want(t, "the response")
		h2test.ReadBytes(t, resp.Body, 10)
		if n := unread.Load(); n != 990 {
			t.Errorf("%d octets of the connection's window are unread, want 990", n)
		}
		before := conn.Stats()
		client.SetWriteBuffer(0) // golang/go#48908: Close must not wait for a peer that does not read
		start := time.Now()
		if err := resp.Body.Close(); err != nil || time.Since(start) > 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		if after := conn.Stats(); before.StreamsOpen != 1 || after.StreamsOpen != 0 {
			t.Errorf("streams: %d, then %d", before.StreamsOpen, after.StreamsOpen)
		}
		if _, err := resp.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
			t.Errorf("Read after Close: %v", err)
		}
		if n := unread.Load(); n != 0 {
			t.Errorf("%d octets of the connection's window are not given back", n)
		}
		client.SetWriteBuffer(1 << 20)
		peer.WantRSTStream("the body was closed", 1, wire.Cancel)
		h2test.WantFullCredit(t, peer, "the body was closed")
	})
}
