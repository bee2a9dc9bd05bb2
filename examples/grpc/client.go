// Package hypergrpc is a gRPC client over hyper's streams. The stubs that protoc-gen-go-grpc
// generates run on it unchanged, because a Client is a grpc.ClientConnInterface:
//
//	client := hypergrpc.NewClient("example.com:443", nil)
//	defer client.Close()
//	reply, err := pb.NewGreeterClient(client).SayHello(ctx, &pb.HelloRequest{Name: "you"})
//
// Copy this package and change it as you like. It follows the gRPC specification:
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
package hypergrpc

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"gohyper.dev/hyper"
)

// A Client calls the methods of one server, over one connection at a time. It makes the connection
// when the first call needs it, and another one when that drains or is lost. A Client implements
// grpc.ClientConnInterface. Any number of goroutines may use it at once.
type Client struct {
	addr   string
	config *hyper.Config
	opts   []grpc.CallOption
	life   context.Context // ends when the client is closed
	end    context.CancelCauseFunc
	links  sync.WaitGroup // connections, and attempts to make one

	mu   sync.Mutex
	link *link // guarded by mu
}

// A link is a connection, or the attempt to make one. The other fields are set when ready is
// closed.
type link struct {
	ready, retry chan struct{} // retry is closed later, when it is time for the next attempt
	conn         *hyper.Conn
	draining     <-chan struct{} // of conn
	err          error           // why there is no conn
	failures     int             // this attempt and those before it, if all of them failed
}

// NewClient returns a Client of the server at addr. addr is as for hyper.Dial: host:port with TLS,
// or http://host:port in cleartext. A nil config means hyper's defaults. opts are options of each
// call, before its own.
func NewClient(addr string, config *hyper.Config, opts ...grpc.CallOption) *Client {
	c := &Client{addr: addr, config: config, opts: opts}
	c.life, c.end = context.WithCancelCause(context.Background())
	now := make(chan struct{})
	close(now)
	c.link = &link{ready: now, draining: now} // of no use, so that the first call dials
	return c
}

// errClosed is the error of calls that Close ends.
var errClosed = errorf(codes.Canceled, "the client was closed")

// Close ends all calls and connections, and waits for their end. The error is nil.
func (c *Client) Close() error {
	c.mu.Lock()
	c.end(errClosed)
	c.mu.Unlock()
	c.links.Wait()
	return nil
}

// maxTries is how often a call is sent at most, while the server does not process it.
const maxTries = 5

// connect returns the connection for a call, and makes it if necessary. If the server cannot be
// reached, the error has codes.Unavailable, unless wait is set: then connect tries until ctx ends.
func (c *Client) connect(ctx context.Context, wait bool) (*hyper.Conn, error) {
	for n := 1; ; n++ {
		l := c.current()
		err := c.await(ctx, l.ready)
		switch {
		case err == nil && l.isUsable():
			return l.conn, nil
		case err == nil && wait:
			err = c.await(ctx, l.retry)
		case err == nil && (l.err != nil || n == maxTries):
			err = errorf(codes.Unavailable, "no connection that takes calls: %v", l.err)
		}
		if err != nil {
			return nil, err
		}
	}
}

// await waits for done to be closed. The error is nil if neither the client nor ctx has ended.
func (c *Client) await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
	case <-c.life.Done():
	case <-ctx.Done():
	}
	return cmp.Or(context.Cause(c.life), status.FromContextError(ctx.Err()).Err())
}

// current returns the link, or another one if it is of no use and it is time for another attempt.
func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.link; isClosed(l.ready) && !l.isUsable() && (l.err == nil || isClosed(l.retry)) &&
		c.life.Err() == nil {
		now := &link{ready: make(chan struct{}), retry: make(chan struct{}), failures: l.failures}
		c.links.Go(func() { c.dial(now) })
		c.link = now
	}
	return c.link
}

// isUsable reports whether l, which is ready, takes calls.
func (l *link) isUsable() bool { return l.err == nil && !isClosed(l.draining) }

// dial makes the connection of l, and closes it when the client is closed. The connection is ready
// when the server's SETTINGS have been received. The next attempt comes later after each failure:
// after about 1 s, 2 s, and so on, up to 2 min
// (https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md).
func (c *Client) dial(l *link) {
	l.conn, l.err = hyper.Dial(c.life, c.addr, c.config)
	if other, ok := errors.AsType[*hyper.NotHTTP2Error](l.err); ok {
		other.Conn.Close()
	}
	if l.err == nil {
		_, l.err = l.conn.WaitSettings(c.life)
		l.draining = l.conn.Draining()
	}
	if l.failures++; l.err == nil {
		l.failures = 0
	}
	backoff := float64(min(500*time.Millisecond<<min(l.failures, 8), 2*time.Minute))
	time.AfterFunc(time.Duration((0.8+0.4*rand.Float64())*backoff), func() { close(l.retry) })
	close(l.ready)
	if l.conn != nil {
		defer context.AfterFunc(c.life, func() { l.conn.Close() })()
		<-l.conn.Done()
	}
}

// options are what the options of a call say.
type options struct {
	all              []grpc.CallOption
	wait             bool                          // WaitForReady
	maxRecv, maxSend int                           // bytes
	creds            credentials.PerRPCCredentials // nil: none
	compressor       encoding.Compressor           // nil: none
}

// set sets the options of a call. One that it does not know is an error.
func (s *options) set(all []grpc.CallOption) error {
	*s = options{all: all, maxRecv: 4 << 20, maxSend: math.MaxInt32}
	for _, o := range all {
		switch o := o.(type) {
		case grpc.EmptyCallOption, grpc.StaticMethodCallOption: // mean nothing here
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption: // see finish
		case grpc.FailFastCallOption:
			s.wait = !o.FailFast
		case grpc.MaxRecvMsgSizeCallOption:
			s.maxRecv = min(o.MaxRecvMsgSize, math.MaxInt32-prefix)
		case grpc.MaxSendMsgSizeCallOption:
			s.maxSend = min(o.MaxSendMsgSize, math.MaxInt32)
		case grpc.PerRPCCredsCallOption:
			s.creds = o.Creds
		case grpc.CompressorCallOption:
			if s.compressor = encoding.GetCompressor(o.CompressorType); s.compressor == nil {
				return errorf(codes.Internal, "no compressor %q is registered", o.CompressorType)
			}
		default:
			return errorf(codes.Unimplemented, "the call option %T is not supported", o)
		}
	}
	return nil
}

// peerOf describes the server.
func peerOf(conn *hyper.Conn) *peer.Peer {
	p := &peer.Peer{Addr: conn.RemoteAddr(), LocalAddr: conn.LocalAddr()}
	if state := conn.TLS(); state != nil {
		level := credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
		p.AuthInfo = credentials.TLSInfo{State: *state, CommonAuthInfo: level}
	}
	return p
}

// isClosed reports whether c is closed. Nothing is ever sent on it.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
