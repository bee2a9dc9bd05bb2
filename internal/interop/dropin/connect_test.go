package dropin

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"gohyper.dev/hyper/internal/lanes"
)

// The messages of the calls.
type (
	text   = wrapperspb.StringValue
	number = wrapperspb.Int64Value
)

// protocols are the protocols that connect supports. gRPC sends its status in HTTP/2 trailers.
var protocols = []struct {
	name    string
	options []connect.ClientOption
}{
	{"connect", nil},
	{"connect-json-gzip", []connect.ClientOption{connect.WithProtoJSON(), connect.WithSendGzip()}},
	{"grpc", []connect.ClientOption{connect.WithGRPC()}},
	{"grpc-gzip", []connect.ClientOption{connect.WithGRPC(), connect.WithSendGzip()}},
	{"grpc-web", []connect.ClientOption{connect.WithGRPCWeb()}},
}

// forEachProtocol runs an experiment with each protocol, each in its own lanes.
func forEachProtocol(t *testing.T, experiment func(c *rpc)) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			compare(t, func(l *lane) {
				l.Vary = []string{"Connect-Timeout-Ms", "Grpc-Timeout"}
				waiting := make(chan struct{}, 1)
				experiment(&rpc{lane: l, url: l.Serve(rpcServer(waiting)), options: p.options,
					waiting: waiting})
			})
		})
	}
}

// An rpc is a client of rpcServer.
type rpc struct {
	*lane
	url     string
	options []connect.ClientOption
	waiting <-chan struct{} // gets a value when a call blocks in the server
}

// rpcClient returns a client of one procedure.
func rpcClient[Req, Res any](c *rpc, procedure string) *connect.Client[Req, Res] {
	return connect.NewClient[Req, Res](c.Client(), c.url+procedure, c.options...)
}

// reportError reports an error as connect classifies it. connect looks for errors of net/http and
// of its HTTP/2.
func (c *rpc) reportError(what string, err error) {
	c.Helper()
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		c.Errorf("%s: %T %v", what, err, err)
		return
	}
	c.Logf("%s: %v", what, err)
	c.Report("%s: %v, on the wire %v, %d details, meta %s, %s", what, e.Code(), connect.IsWireError(err),
		len(e.Details()), metadata(e.Meta()), lanes.Class(err))
	if connect.IsWireError(err) {
		c.Report("\t%s", e.Message())
	}
}

// metadata lists the fields that the service and the protocol set, without those that the HTTP
// server adds.
func metadata(h http.Header) string {
	h = h.Clone()
	h.Del("Date")
	return (&lanes.Lane{}).Fields(h)
}

// rpcServer returns the service. It sends a value to waiting for each call that blocks.
func rpcServer(waiting chan<- struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/unary", connect.NewUnaryHandler("/unary", unary))
	mux.Handle("/count", connect.NewServerStreamHandler("/count", count))
	mux.Handle("/join", connect.NewClientStreamHandler("/join", join))
	mux.Handle("/echo", connect.NewBidiStreamHandler("/echo", echo))
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/proxy-error", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(503)
		io.WriteString(w, "<html>no backend</html>")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), waitingKey{}, waiting)
		mux.ServeHTTP(w, r.WithContext(context.WithValue(ctx, clientKey{}, r.Context())))
	})
}

// clientKey is the key of the request's context in the context of a call, and waitingKey that of
// the channel of rpcServer.
type clientKey struct{}
type waitingKey struct{}

// clientGone returns when the client has ended the call. ctx itself ends at the deadline that the
// client sent, too, and the server's response to that could arrive before the client's own
// deadline.
func clientGone(ctx context.Context) { <-ctx.Value(clientKey{}).(context.Context).Done() }

// unary returns a response or an error, depending on the message.
func unary(ctx context.Context, req *connect.Request[text]) (*connect.Response[text], error) {
	switch req.Msg.Value {
	case "not found":
		err := connect.NewError(connect.CodeNotFound, errors.New("no such thing: ☂"))
		err.Meta().Set("X-Where", "nowhere")
		err.Meta().Set("X-Raw-Bin", connect.EncodeBinaryHeader([]byte{0, 1, 255}))
		detail, detailErr := connect.NewErrorDetail(durationpb.New(time.Minute))
		if detailErr != nil {
			return nil, detailErr
		}
		err.AddDetail(detail)
		return nil, err
	case "wait":
		select {
		case ctx.Value(waitingKey{}).(chan<- struct{}) <- struct{}{}:
		default: // it was told before
		}
		clientGone(ctx)
		return nil, ctx.Err()
	}
	res := connect.NewResponse(&text{Value: fmt.Sprintf("%x", sha256.Sum256([]byte(req.Msg.Value)))})
	res.Header().Set("X-Head", req.Header().Get("X-Head"))
	res.Trailer().Set("X-Tail", fmt.Sprint("tail of ", len(req.Msg.Value)))
	return res, nil
}

// count sends as many messages as the number says. If the number is negative, it returns an error
// after them.
func count(ctx context.Context, req *connect.Request[number], stream *connect.ServerStream[text]) error {
	stream.ResponseTrailer().Set("X-Tail", "counted")
	n := req.Msg.Value
	for i := range max(n, -n) {
		if err := stream.Send(&text{Value: strings.Repeat(fmt.Sprint(i%10), 1000)}); err != nil {
			return err
		}
	}
	switch {
	case n == -1:
		return connect.NewError(connect.CodeResourceExhausted, errors.New("one is enough"))
	case n == -2:
		panic(http.ErrAbortHandler)
	case n == -3:
		clientGone(ctx)
	}
	return nil
}

// join returns the SHA-256 of all messages together.
func join(ctx context.Context, stream *connect.ClientStream[text]) (*connect.Response[text], error) {
	h := sha256.New()
	for stream.Receive() {
		io.WriteString(h, stream.Msg().Value)
		if stream.Msg().Value == "enough" {
			return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("enough"))
		}
	}
	return connect.NewResponse(&text{Value: fmt.Sprintf("%x", h.Sum(nil))}), stream.Err()
}

// echo sends each message back.
func echo(ctx context.Context, stream *connect.BidiStream[text, text]) error {
	stream.ResponseHeader().Set("X-Head", "echo")
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			stream.ResponseTrailer().Set("X-Tail", "silence")
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

func TestConnectUnary(t *testing.T) {
	forEachProtocol(t, func(c *rpc) {
		call := rpcClient[text, text](c, "/unary")
		for _, n := range []int{0, 10, 100_000, 3 << 20} {
			req := connect.NewRequest(&text{Value: strings.Repeat("x", n)})
			req.Header().Set("X-Head", "head")
			res, err := call.CallUnary(c.Context(), req)
			c.Must(err)
			c.Report("%d octets: %s, header %s, trailer %s", n, res.Msg.Value, metadata(res.Header()),
				metadata(res.Trailer()))
		}
		_, err := call.CallUnary(c.Context(), connect.NewRequest(&text{Value: "not found"}))
		c.reportError("not found", err)
		_, err = rpcClient[text, text](c, "/nothing").CallUnary(c.Context(), connect.NewRequest(&text{}))
		c.reportError("404", err)
		_, err = rpcClient[text, text](c, "/proxy-error").CallUnary(c.Context(), connect.NewRequest(&text{}))
		c.reportError("503", err)
	})
}

// TestConnectGet uses connect's GET requests, which can be cached. They have the message in the
// query.
func TestConnectGet(t *testing.T) {
	compare(t, func(l *lane) {
		mux := http.NewServeMux()
		mux.Handle("/unary", connect.NewUnaryHandler("/unary", unary,
			connect.WithIdempotency(connect.IdempotencyNoSideEffects)))
		c := &rpc{lane: l, url: l.Serve(mux), options: []connect.ClientOption{connect.WithHTTPGet(),
			connect.WithIdempotency(connect.IdempotencyNoSideEffects)}}
		res, err := rpcClient[text, text](c, "/unary").CallUnary(l.Context(),
			connect.NewRequest(&text{Value: "by GET"}))
		l.Must(err)
		l.Report("%s", res.Msg.Value)
	})
}

func TestConnectServerStream(t *testing.T) {
	forEachProtocol(t, func(c *rpc) {
		for _, n := range []int64{0, 1, 200, -1, -2} { // negative: an error after the messages
			stream, err := rpcClient[number, text](c, "/count").CallServerStream(c.Context(),
				connect.NewRequest(&number{Value: n}))
			c.Must(err)
			h, messages := sha256.New(), 0
			for stream.Receive() {
				messages++
				io.WriteString(h, stream.Msg().Value)
			}
			c.Report("%d: %d messages %x", n, messages, h.Sum(nil))
			if n < 0 {
				c.reportError("\tand then", stream.Err())
			} else {
				c.Must(stream.Err())
			}
			c.Report("\ttrailer %s", metadata(stream.ResponseTrailer()))
			c.Must(stream.Close())
		}
	})
}

func TestConnectClientStream(t *testing.T) {
	forEachProtocol(t, func(c *rpc) {
		stream := rpcClient[text, text](c, "/join").CallClientStream(c.Context())
		for i := range 300 {
			c.Must(stream.Send(&text{Value: strings.Repeat(fmt.Sprint(i%10), 1000)}))
		}
		res, err := stream.CloseAndReceive()
		c.Must(err)
		c.Report("%s", res.Msg.Value)

		stream = rpcClient[text, text](c, "/join").CallClientStream(c.Context())
		c.Must(stream.Send(&text{Value: "enough"}))
		_, err = stream.CloseAndReceive()
		c.reportError("refused", err)
	})
}

func TestConnectBidirectionalStream(t *testing.T) {
	forEachProtocol(t, func(c *rpc) {
		stream := rpcClient[text, text](c, "/echo").CallBidiStream(c.Context())
		for i := range 10 { // one after another
			out := strings.Repeat(fmt.Sprint(i%10), 1+i*300)
			c.Must(stream.Send(&text{Value: out}))
			in, err := stream.Receive()
			c.Must(err)
			if in.Value != out {
				c.Fatalf("message %d came back as %q", i, in.Value)
			}
		}
		sent := make(chan error, 1)
		go func() { // concurrently
			for i := range 60 {
				if err := stream.Send(&text{Value: strings.Repeat(fmt.Sprint(i%10), 5000)}); err != nil {
					sent <- err
					return
				}
			}
			sent <- stream.CloseRequest()
		}()
		h, messages := sha256.New(), 0
		for {
			in, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				break
			}
			c.Must(err)
			messages++
			io.WriteString(h, in.Value)
		}
		c.Must(<-sent)
		c.Report("%d messages %x, header %s, trailer %s", messages, h.Sum(nil),
			metadata(stream.ResponseHeader()), metadata(stream.ResponseTrailer()))
		c.Must(stream.CloseResponse())
	})
}

func TestConnectTrouble(t *testing.T) {
	forEachProtocol(t, func(c *rpc) {
		c.Loose = true
		call := rpcClient[text, text](c, "/unary")

		ctx, cancel := context.WithTimeout(c.Context(), 100*time.Millisecond)
		_, err := call.CallUnary(ctx, connect.NewRequest(&text{Value: "wait"}))
		cancel()
		c.reportError("deadline", err)

		ctx, cancel = context.WithCancel(c.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err = call.CallUnary(ctx, connect.NewRequest(&text{Value: "wait"}))
		c.reportError("canceled", err)

		hasty := c.Client()
		hasty.Timeout = 100 * time.Millisecond
		_, err = connect.NewClient[text, text](hasty, c.url+"/unary", c.options...).CallUnary(c.Context(),
			connect.NewRequest(&text{Value: "wait"}))
		c.reportError("Client.Timeout", err)

		for _, end := range []string{"deadline", "canceled"} { // in the middle of the stream
			ctx, cancel = context.WithCancel(c.Context())
			if end == "deadline" {
				ctx, cancel = context.WithTimeout(c.Context(), time.Second)
			}
			stream, err := rpcClient[number, text](c, "/count").CallServerStream(ctx,
				connect.NewRequest(&number{Value: -3}))
			c.Must(err)
			messages := 0
			for stream.Receive() {
				if messages++; messages == 3 && end == "canceled" {
					cancel()
				}
			}
			c.Report("%d messages", messages)
			c.reportError(end+" between messages", stream.Err())
			c.Must(stream.Close())
			cancel()
		}

		_, err = rpcClient[text, text](c, "/abort").CallUnary(c.Context(), connect.NewRequest(&text{}))
		c.reportError("aborted", err)

		_, err = connect.NewClient[text, text](c.Client(), c.Refused()+"/unary",
			c.options...).CallUnary(c.Context(), connect.NewRequest(&text{}))
		c.reportError("refused", err)
	})
}

// TestConnectCutOff cuts a connection in the middle of calls.
func TestConnectCutOff(t *testing.T) {
	forEachProtocol(t, func(c *rpc) {
		c.Loose = true
		unary := make(chan error, 1)
		go func() {
			_, err := rpcClient[text, text](c, "/unary").CallUnary(c.Context(),
				connect.NewRequest(&text{Value: "wait"}))
			unary <- err
		}()
		stream, err := rpcClient[number, text](c, "/count").CallServerStream(c.Context(),
			connect.NewRequest(&number{Value: -3}))
		c.Must(err)
		messages := 0
		for stream.Receive() {
			if messages++; messages == 3 {
				<-c.waiting // the server has the unary call
				c.Cut(c.url)
			}
		}
		c.Report("%d messages", messages)
		c.reportError("stream", stream.Err())
		c.Must(stream.Close())
		c.reportError("unary", <-unary)

		res, err := rpcClient[text, text](c, "/unary").CallUnary(c.Context(),
			connect.NewRequest(&text{Value: "again"}))
		c.Must(err)
		c.Report("afterwards: %s", res.Msg.Value)
	})
}

// TestConnectDistinguishesResets checks the code that connect finds in the text of a reset's error,
// which is net/http's text. The test leaves out REFUSED_STREAM and PROTOCOL_ERROR, because net/http
// repeats such a request.
func TestConnectDistinguishesResets(t *testing.T) {
	for _, code := range []wire.ErrCode{wire.NoError, wire.InternalError, wire.FlowControlError,
		wire.SettingsTimeout,
		wire.StreamClosed, wire.Cancel, wire.CompressionError, wire.ConnectError, wire.EnhanceYourCalm,
		wire.InadequateSecurity} {
		t.Run(code.String(), func(t *testing.T) {
			compare(t, func(l *lane) {
				l.Loose = true // Serve does not start this peer
				for _, p := range protocols {
					url := l.resets(code)
					_, err := connect.NewClient[text, text](l.Client(), url+"/unary",
						p.options...).CallUnary(l.Context(), connect.NewRequest(&text{}))
					(&rpc{lane: l}).reportError(p.name, err)
				}
			})
		})
	}
}

// resets returns the URL of a server that resets its first request.
func (l *lane) resets(code wire.ErrCode) string {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", h2test.ServerTLS("h2"))
	l.Must(err)
	l.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		peer := h2test.NewPeer(l, conn)
		peer.Ignore(wire.WindowUpdate, wire.Data, wire.RSTStream, wire.Ping)
		peer.AutoPing()
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		peer.WriteRSTStream(1, code)
	}()
	return "https://" + listener.Addr().String()
}
