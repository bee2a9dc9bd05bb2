// This file tests a context that ends at the same time as its stream.

package hypertest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A lateContext is a context that ends when done is closed. What context.AfterFunc starts at the
// end is held in Err until release is closed, as on a machine that runs that goroutine late.
type lateContext struct {
	context.Context
	done, release chan struct{}
	cancel        func()       // starts what context.AfterFunc has registered
	free          atomic.Int32 // how many calls of Err are not held
}

func newLateContext() *lateContext {
	c := &lateContext{Context: context.Background(), done: make(chan struct{}), release: make(chan struct{})}
	c.free.Store(1000)
	return c
}

func (c *lateContext) Done() <-chan struct{} { return c.done }

func (c *lateContext) Err() error {
	if c.free.Add(-1) < 0 {
		<-c.release
	}
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// AfterFunc is called by context.AfterFunc.
func (c *lateContext) AfterFunc(cancel func()) (stop func() bool) {
	c.cancel = cancel
	return func() bool { return false }
}

// start starts what context.AfterFunc has registered, and holds it.
func (c *lateContext) start() {
	probe := newLateContext() // counts the calls of Err before the start
	defer context.AfterFunc(probe, func() {})()
	close(probe.done)
	before := probe.free.Load()
	probe.cancel()
	c.free.Store(before - probe.free.Load())
	c.cancel()
	synctest.Wait()
}

// After the end of its context, a call has no response to close. What arrives until the stream is
// reset must not hold the connection's window.
func TestUnreadDataOfAnEndedContextIsGivenBack(t *testing.T) {
	for name, end := range map[string]func(peer *h2test.Peer){
		"END_STREAM": func(peer *h2test.Peer) { peer.WriteData(1, wire.EndStream, nil) },
		"RST_STREAM": func(peer *h2test.Peer) { peer.WriteRSTStream(1, wire.InternalError) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: consumed})
				ctx := newLateContext()
				s, err := conn.Open(ctx, &hyper.Request{})
				if err != nil {
					t.Fatal(err)
				}
				s.CloseWrite()
				peer.WantHeaders("the request", 1)
				peer.WantData("its end", 1, wire.EndStream, 0)
				call := h2test.Go(func() (*hyper.Response, error) { return s.Response(ctx) })
				call.WantWaiting(t, "there is no response")
				close(ctx.done)
				if err := call.WantErr(t, "the context has ended"); !errors.Is(err, context.Canceled) {
					t.Errorf("Response: %v", err)
				}
				ctx.start()
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, 0, make([]byte, 5000))
				end(peer)
				peer.WantIdle("it is unread")
				close(ctx.release)
				peer.WantWindowUpdate("of the connection", 0, 5000)
				peer.WantIdle("and no RST_STREAM: the stream has ended")
			})
		})
	}
}

// consumed makes managers that grant what was consumed.
func consumed(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(hyper.WindowEvent.Consumed)
}

// A busyContext ends while Done is called, after meanwhile was called.
type busyContext struct {
	context.Context
	cancel    context.CancelFunc
	meanwhile func()
}

func (c *busyContext) Done() <-chan struct{} {
	if f := c.meanwhile; f != nil {
		c.meanwhile = nil
		f()
		c.cancel()
	}
	return c.Context.Done()
}

// A response that arrives at the same time as its context ends is returned. Otherwise no caller
// would close it.
func TestResponseThatComesWithTheEndOfItsContextIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: consumed})
		for i := range uint32(30) { // select takes one of two channels at random
			id := 2*i + 1
			s, err := conn.Open(t.Context(), &hyper.Request{})
			if err != nil {
				t.Fatal(err)
			}
			s.CloseWrite()
			peer.WantHeaders("the request", id)
			peer.WantData("its end", id, wire.EndStream, 0)
			ctx := &busyContext{meanwhile: func() {
				peer.WriteHeaders(id, 0, ":status: 200")
				peer.WriteData(id, wire.EndStream, []byte("body"))
				synctest.Wait()
			}}
			ctx.Context, ctx.cancel = context.WithCancel(t.Context())
			resp, err := s.Response(ctx)
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			h2test.WantBody(t, "the response", resp.Body, "body")
			peer.WantWindowUpdate("of the connection", 0, 4)
		}
	})
}
