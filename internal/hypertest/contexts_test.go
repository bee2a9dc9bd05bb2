// This file tests what the end of a context does to a call.

package hypertest

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

var errCancelCause = errors.New("the caller's own reason")

func doErr(ctx context.Context, conn *hyper.Conn, req *hyper.Request) error {
	_, err := conn.Do(ctx, req)
	return err
}

func TestContextThatIsOverSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errCancelCause)
		_, opened := conn.Open(ctx, &hyper.Request{})
		for _, err := range []error{doErr(ctx, conn, &hyper.Request{}), opened} {
			if !errors.Is(err, context.Canceled) || !errors.Is(err, errCancelCause) {
				t.Error(err)
			}
		}
		peer.WantIdle("nothing is sent")
		getAsync(conn, "/")
		peer.WantHeaders("and no stream used", 1)
	})
}

func TestContextEndsShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.Ignore(wire.WindowUpdate)
		got := getAsync(conn, "/")
		peer.WantHeaders("a request", 1)
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan error)
		go func() { done <- conn.Shutdown(ctx) }()
		peer.WantGoAway("no more requests", 0, wire.NoError)
		peer.WantIdle("the stream is waited for")
		cancel(errCancelCause)
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, errCancelCause) {
			t.Error(err)
		}
		if err := got.WantErr(t, "the stream is ended"); !errors.Is(err, hyper.ErrClosed) {
			t.Error(err)
		}
	})
}

// consumedWindow returns consumed bytes at once, so that the peer's credit can be compared exactly.
func consumedWindow(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(hyper.WindowEvent.Consumed)
}

// golang/go#16481 and similar issues: if the bytes of cancelled streams are never returned as
// credit, the connection stalls in the end.
func TestCancelledBodyReturnsTheConnectionsCredit(t *testing.T) {
	ends := map[string]func(resp *hyper.Response, cancel context.CancelFunc){
		"context":    func(_ *hyper.Response, cancel context.CancelFunc) { cancel() },
		"Body.Close": func(resp *hyper.Response, _ context.CancelFunc) { resp.Body.Close() },
		"Raw.Close":  func(resp *hyper.Response, _ context.CancelFunc) { resp.Raw().Close() },
		"Reset": func(resp *hyper.Response, _ context.CancelFunc) {
			resp.Stream().Reset(hyper.ErrCodeCancel)
		},
		"NetConn": func(resp *hyper.Response, _ context.CancelFunc) { resp.Stream().NetConn().Close() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: consumedWindow})
				peer.Ignore(wire.WindowUpdate)
				before := peer.Credit(0)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				got := doAsync(ctx, conn, &hyper.Request{})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, 0, make([]byte, 1000))
				peer.WritePaddedData(1, 0, make([]byte, 1000), 200)
				resp := got.Want(t, "the response")
				if n, err := io.ReadFull(resp.Body, make([]byte, 500)); err != nil {
					t.Errorf("%d, %v", n, err)
				}
				synctest.Wait()
				if credit := peer.Credit(0); credit != before-1500 {
					t.Errorf("credit %d while 1500 octets are held, want %d", credit, before-1500)
				}
				end(resp, cancel)
				peer.WantRSTStream("the peer is told", 1, wire.Cancel)
				peer.WantIdle("and has all its credit back")
				if credit := peer.Credit(0); credit != before {
					t.Errorf("credit %d after the reset, want %d", credit, before)
				}
				peer.WriteData(1, 0, make([]byte, 3000))
				peer.WritePaddedData(1, wire.EndStream, make([]byte, 10), 255)
				peer.WantIdle("late DATA is no error")
				if credit := peer.Credit(0); credit != before {
					t.Errorf("credit %d after late DATA, want %d", credit, before)
				}
				var first error
				for range 3 {
					n, err := resp.Body.Read(make([]byte, 10))
					if n != 0 || !errors.Is(err, hyper.ErrCodeCancel) || first != nil && err != first {
						t.Errorf("%d, %v: what was held is dropped", n, err)
					}
					first = err
				}
			})
		})
	}
}

// A complete response stays available to the caller: the exchange was over when its context ended.
func TestContextThatEndsAfterTheExchangeChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancel(context.Background())
		got := doAsync(ctx, conn, &hyper.Request{})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("whole"))
		resp := got.Want(t, "the response")
		synctest.Wait()
		cancel()
		peer.WantIdle("no reset")
		h2test.WantBody(t, "the body", resp.Body, "whole")
	})
}

// If a context ends while its call waits for a slot, the slot goes to the next call in line.
func TestCancelledWaiterLeavesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 1})
		getAsync(conn, "/first")
		peer.WantHeaders("first", 1)
		ctx, cancel := context.WithCancel(context.Background())
		second := doAsync(ctx, conn, &hyper.Request{Path: "/second"})
		synctest.Wait()
		getAsync(conn, "/third")
		synctest.Wait()
		cancel()
		second.WantErr(t, "cancelled")
		peer.WantIdle("the third waits")
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		peer.WantHeaders("the third has the slot", 3, ":path: /third")
	})
}

// The context of Stream.Response ends only that call, not the stream.
func TestContextOfResponseLeavesTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		ctx := h2test.WithTimeout(t, time.Second)
		if _, err := s.Response(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		peer.WantIdle("no reset")
		streamBody(t, peer, s)
	})
}
