package hypergrpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"gohyper.dev/hyper"
)

// maxReplay is how much of what was sent is kept until the response begins, in bytes.
const maxReplay = 256 << 10

// A stream is a call. It implements grpc.ClientStream. Until the response begins, it keeps what was
// sent, so that it can send that again if the server did not process it.
type stream struct {
	options
	client *Client
	ctx    context.Context
	desc   *grpc.StreamDesc
	method string       // "/service/method"
	out    []byte       // the last message sent; used by SendMsg, and by a request that has only one
	in     bytes.Buffer // what was read and not returned; used by RecvMsg

	stream atomic.Pointer[hyper.Stream] // nil: it was not opened yet; changed with mu held
	resp   atomic.Pointer[hyper.Response]
	end    atomic.Pointer[error] // what RecvMsg returns after the end

	mu       sync.Mutex // guards everything below
	req      hyper.Request
	tries    int           // how often the stream was opened
	sent     []byte        // the messages, if there can be several, while they are kept
	dropped  bool          // they are not kept any more
	sentAll  bool          // the last one was sent
	replayed chan struct{} // closed when stream has what was sent; nil: stream is the first
}

// calls holds streams of unary calls that are not in use.
var calls = sync.Pool{New: func() any { return &stream{} }}

// unary describes a unary call.
var unary grpc.StreamDesc

// Invoke makes a unary call. The errors are those of package status.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	s := calls.Get().(*stream)
	s.client, s.ctx, s.desc, s.method = c, ctx, &unary, method
	err := s.begin(opts)
	if err == nil {
		err = s.SendMsg(args)
	}
	if err == nil {
		err = s.RecvMsg(reply)
	}
	if s.in.Reset(); cap(s.out) <= maxKept && s.in.Cap() <= maxKept {
		clear(s.req.Header)
		*s = stream{out: s.out, in: s.in, req: hyper.Request{Header: s.req.Header}}
		calls.Put(s)
	}
	return err
}

// NewStream makes a call with streams. The errors are those of package status.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string,
	opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s := &stream{client: c, ctx: ctx, desc: desc, method: method}
	return s, s.begin(opts)
}

// begin begins a call. If there can be several messages, it opens the stream. Else the message
// opens it, in the same write.
func (s *stream) begin(opts []grpc.CallOption) error {
	if err := s.options.set(slices.Concat(s.client.opts, opts)); err != nil || !s.desc.ClientStreams {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLocked()
}

// openLocked opens the stream on a connection that takes it.
func (s *stream) openLocked() error {
	for {
		s.tries++
		conn, err := s.client.connect(s.ctx, s.wait)
		if err == nil {
			err = s.prepareLocked(conn)
		}
		if err != nil {
			return err
		}
		opened, err := conn.Open(s.ctx, &s.req)
		if err == nil {
			s.stream.Store(opened)
			return nil
		}
		if s.isFinalLocked(err) {
			return statusOf(s.ctx, err)
		}
	}
}

// prepareLocked makes the request for an attempt on conn.
func (s *stream) prepareLocked(conn *hyper.Conn) (err error) {
	h := append(s.req.Header[:0],
		hyper.Field{Name: "content-type", Value: "application/grpc"},
		hyper.Field{Name: "user-agent", Value: "grpc-go-hyper"},
		hyper.Field{Name: "te", Value: "trailers"},
		hyper.Field{Name: "grpc-accept-encoding", Value: "gzip"})
	if s.compressor != nil {
		h.Add("grpc-encoding", s.compressor.Name())
	}
	if s.creds != nil {
		info := credentials.RequestInfo{Method: s.method, AuthInfo: peerOf(conn).AuthInfo}
		if s.creds.RequireTransportSecurity() && info.AuthInfo == nil {
			return errorf(codes.Unauthenticated, "the credentials need TLS")
		}
		uri := strings.TrimSuffix(strings.TrimPrefix(s.client.addr, "https://"), ":443") + path.Dir(s.method)
		ctx := credentials.NewContextWithRequestInfo(s.ctx, info)
		fields, err := s.creds.GetRequestMetadata(ctx, "https://"+uri)
		if err != nil {
			return errorf(codes.Unauthenticated, "credentials: %v", err)
		}
		for name, value := range fields {
			h.AddSensitive(name, value)
		}
	}
	h, err = appendOutgoing(s.ctx, h)
	if deadline, ok := s.ctx.Deadline(); ok {
		// Each value is new, so it must not take the place of others in the compression table.
		h.AddSensitive("grpc-timeout", timeout(time.Until(deadline)))
	}
	s.req = hyper.Request{Method: "POST", Path: s.method, Header: h, NoDefaultFields: true}
	if !s.desc.ClientStreams {
		s.req.Body = bytes.NewReader(s.out)
	}
	return err
}

// isFinalLocked reports whether a call that failed with err is not sent again. What the server
// refuses by REFUSED_STREAM is sent twice, what it does not process otherwise maxTries times.
func (s *stream) isFinalLocked(err error) bool {
	return s.dropped || s.resp.Load() != nil || !hyper.Retryable(err) || s.tries >= maxTries ||
		s.tries > 1 && errors.Is(err, hyper.ErrCodeRefusedStream)
}

// reopen is called when old failed with err. It returns nil if there is another stream now, on
// which everything is sent again, and otherwise the status.
func (s *stream) reopen(old *hyper.Stream, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stream.Load() != old:
		return nil
	case s.isFinalLocked(err):
		return statusOf(s.ctx, err)
	}
	old.Reset(hyper.ErrCodeCancel) // after this, it no longer uses the request
	if err := s.openLocked(); err != nil || !s.desc.ClientStreams {
		return err
	}
	now, sent, sentAll, replayed := s.stream.Load(), s.sent, s.sentAll, make(chan struct{})
	s.replayed = replayed
	go func() { // the window may be closed until the caller has read of the response
		write(now, sent, sentAll)
		close(replayed)
	}()
	return nil
}

// write sends p, and then the end of the request if p is the last.
func write(s *hyper.Stream, p []byte, last bool) error {
	_, err := s.Write(p)
	if err == nil && last {
		err = s.CloseWrite()
	}
	return err
}

// SendMsg sends a message. If the call is over, the error is io.EOF, and RecvMsg returns the
// status.
func (s *stream) SendMsg(msg any) (err error) {
	if s.sentAll {
		return errorf(codes.Internal, "SendMsg after the last message")
	}
	if s.out, err = s.appendMessage(s.out, msg); err != nil {
		return s.finish(err)
	}
	if s.desc.ClientStreams {
		return s.send(s.out, false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sentAll = true
	if err = s.openLocked(); err != nil {
		return s.finish(err)
	}
	return nil
}

// CloseSend ends what the caller sends. The error is nil.
func (s *stream) CloseSend() error {
	if !s.sentAll && s.desc.ClientStreams {
		s.send(nil, true)
	}
	return nil
}

// send sends p, which holds a message or nothing. last says that nothing more will be sent.
func (s *stream) send(p []byte, last bool) error {
	s.mu.Lock()
	s.sentAll = last
	if s.dropped = s.dropped || s.resp.Load() != nil || len(s.sent)+len(p) > maxReplay; s.dropped {
		s.sent = nil
	} else {
		s.sent = append(s.sent, p...)
	}
	now, replayed := s.stream.Load(), s.replayed
	s.mu.Unlock()
	if replayed != nil {
		<-replayed
	}
	if err := write(now, p, last); err != nil && s.reopen(now, err) != nil {
		return io.EOF
	}
	return nil
}

// response waits for the header of the response. The error may also be that the call is over.
func (s *stream) response() (*hyper.Response, error) {
	for {
		now, resp, end := s.stream.Load(), s.resp.Load(), s.end.Load()
		switch {
		case end != nil:
			return resp, *end
		case resp != nil:
			return resp, check(resp)
		case now == nil:
			return nil, errorf(codes.Internal, "no message was sent")
		}
		resp, err := now.Response(s.ctx)
		if err == nil {
			s.resp.Store(resp)
		} else if err := s.reopen(now, err); err != nil {
			return nil, err
		}
	}
}

// RecvMsg receives a message. The error is io.EOF if the call ended with the status OK.
func (s *stream) RecvMsg(msg any) error {
	resp, err := s.response()
	if err == nil {
		err = s.recv(resp, msg)
	}
	switch {
	case err == nil && s.desc.ServerStreams:
		return nil
	case err == nil: // there is only one message, and the status says whether it counts
		if err = s.recv(resp, msg); err == nil {
			err = errorf(codes.Internal, "the response has a second message")
		}
		if s.finish(err) == io.EOF {
			return nil
		}
	case err == io.EOF && !s.desc.ServerStreams && s.end.Load() == nil:
		err = errorf(codes.Internal, "the response has no message")
	}
	return s.finish(err)
}

// finish ends the call with err; io.EOF means OK. It returns what RecvMsg returns from now on. Only
// the first call counts.
func (s *stream) finish(err error) error {
	if !s.end.CompareAndSwap(nil, &err) {
		return *s.end.Load()
	}
	now := s.stream.Load()
	if now == nil {
		return err
	}
	now.Reset(hyper.ErrCodeCancel) // has no effect if the stream has ended
	header, trailer := fieldsOf(s.resp.Load())
	for _, o := range s.all {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = metadataIn(header)
		case grpc.TrailerCallOption:
			*o.TrailerAddr = metadataIn(trailer)
		case grpc.PeerCallOption:
			*o.PeerAddr = *peerOf(now.Conn())
		}
	}
	return err
}

// Header waits for the header metadata. It is nil if the call ended without any.
func (s *stream) Header() (metadata.MD, error) {
	resp, err := s.response()
	if resp == nil || check(resp) != nil {
		return nil, s.finish(err)
	}
	header, _ := fieldsOf(resp)
	return metadataIn(header), nil
}

// Trailer returns the trailer metadata, after RecvMsg has returned an error.
func (s *stream) Trailer() metadata.MD {
	_, trailer := fieldsOf(s.resp.Load())
	return metadataIn(trailer)
}

// Context returns the context of the call.
func (s *stream) Context() context.Context { return s.ctx }
