package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// This file runs grpc-go's server, which has an HTTP/2 implementation of its own. It serves the
// site as calls: what other servers send as a body, it sends as messages of bytes.

// messageSize is the maximum size of the messages, in bytes.
const messageSize = 32 << 10

// A plainCodec is a codec for messages of type *[]byte.
type plainCodec struct{}

// Marshal returns a copy, which gRPC keeps until it is sent.
func (plainCodec) Marshal(v any) ([]byte, error) { return bytes.Clone(*v.(*[]byte)), nil }

func (plainCodec) Unmarshal(p []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(p)
	return nil
}

func (plainCodec) Name() string { return "plain" }

// A grpcSite is a site that grpc-go serves on two sockets.
type grpcSite struct {
	*site
	t       *testing.T
	sockets []*os.File
	now     []*grpc.Server
}

// startGRPC starts grpc-go's server, in this process.
func startGRPC(t *testing.T, s *site) *running {
	x := &grpcSite{site: s, t: t}
	r := &running{seen: s.origin.Seen, reload: x.reload, version: grpc.Version}
	addrs := make([]string, 2)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		socket, err := l.(*net.TCPListener).File()
		check(t, err)
		t.Cleanup(func() { socket.Close() })
		addrs[i] = l.Addr().String()
		l.Close()
		x.sockets = append(x.sockets, socket)
	}
	r.addr, r.plain = addrs[0], "http://"+addrs[1]
	x.now = x.serve()
	t.Cleanup(func() {
		for _, server := range x.now {
			server.Stop()
		}
	})
	return r
}

// serve starts servers on both sockets.
func (x *grpcSite) serve() (servers []*grpc.Server) {
	for i, socket := range x.sockets {
		l, err := net.FileListener(socket)
		check(x.t, err)
		options := []grpc.ServerOption{grpc.ForceServerCodec(plainCodec{}),
			grpc.UnknownServiceHandler(x.call), grpc.MaxHeaderListSize(100_000)}
		if i == 0 {
			options = append(options, grpc.Creds(credentials.NewTLS(h2test.ServerTLS())))
		}
		server := grpc.NewServer(options...)
		go server.Serve(l)
		servers = append(servers, server)
	}
	return servers
}

// reload starts new servers on the sockets, and stops the old ones gracefully.
func (x *grpcSite) reload() {
	old := x.now
	x.now = x.serve()
	for _, server := range old {
		go server.GracefulStop()
	}
}

// call serves a call. Its method is the name of a page or of a service.
func (x *grpcSite) call(_ any, stream grpc.ServerStream) error {
	stream.SetTrailer(metadata.Pairs("x-sum", "abc"))
	switch method, _ := grpc.MethodFromServerStream(stream); method {
	case "/site/small.txt":
		text := []byte(x.small)
		return stream.SendMsg(&text)
	case "/site/large.bin":
		f, err := os.Open(x.largeFile())
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(messageWriter{stream}, struct{ io.Reader }{f}, make([]byte, messageSize))
		return err
	case "/site/sum":
		sum := sha256.New()
		err := eachMessage(stream, func(p []byte) error {
			sum.Write(p)
			return nil
		})
		if err != nil {
			return err
		}
		text := []byte(hex.EncodeToString(sum.Sum(nil)))
		return stream.SendMsg(&text)
	case "/site/echo":
		if err := stream.SendHeader(nil); err != nil {
			return err
		}
		return eachMessage(stream, func(p []byte) error { return stream.SendMsg(&p) })
	}
	return status.Error(codes.Unimplemented, "")
}

// eachMessage calls f with each message of the client.
func eachMessage(stream grpc.ServerStream, f func([]byte) error) error {
	for {
		var p []byte
		err := stream.RecvMsg(&p)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = f(p)
		}
		if err != nil {
			return err
		}
	}
}

// A messageWriter sends what is written to it as messages.
type messageWriter struct{ grpc.ServerStream }

func (w messageWriter) Write(p []byte) (int, error) { return len(p), w.SendMsg(&p) }

// appendMessage appends the frame of a message to b.
func appendMessage(b, message []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 0), uint32(len(message)))
	return append(b, message...)
}

// framed returns a reader of the messages that have the bytes of r.
func framed(r io.Reader) io.Reader {
	buf := make([]byte, messageSize)
	var frame []byte
	return readerFunc(func(p []byte) (int, error) {
		if len(frame) == 0 {
			n, err := r.Read(buf)
			if n == 0 {
				return 0, err
			}
			frame = appendMessage(frame, buf[:n])
		}
		n := copy(p, frame)
		frame = frame[n:]
		return n, nil
	})
}

// unframed returns a reader of the bytes of the messages that are read from r.
func unframed(r io.Reader) io.Reader {
	left := 0 // of the current message
	return readerFunc(func(p []byte) (int, error) {
		for left == 0 {
			var prefix [5]byte
			if _, err := io.ReadFull(r, prefix[:]); err != nil {
				return 0, err
			}
			if prefix[0] != 0 {
				return 0, errors.New("the message is compressed")
			}
			left = int(binary.BigEndian.Uint32(prefix[1:]))
		}
		n, err := r.Read(p[:min(len(p), left)])
		left -= n
		return n, err
	})
}

// grpcRequest returns the request of a call; its messages have the bytes of body.
func grpcRequest(method string, body io.Reader) *hyper.Request {
	return &hyper.Request{Method: "POST", Path: "/site/" + method, Body: framed(body),
		Header: hyper.Header{{Name: "content-type", Value: "application/grpc"},
			{Name: "te", Value: "trailers"}}}
}

// grpcBody calls read with the bytes of the messages of a response, and requires that the call
// succeeded.
func grpcBody(resp *hyper.Response, read func(io.Reader) error) error {
	defer resp.Body.Close()
	if err := read(unframed(resp.Body)); err != nil {
		return err
	}
	if code := resp.Trailer().Get("grpc-status"); code != "0" {
		return fmt.Errorf("status %d, grpc-status %q, %q", resp.StatusCode, code,
			resp.Trailer().Get("grpc-message"))
	}
	return nil
}

// wantCall makes a call. It requires that the messages of the response are want, or that they have
// this SHA-256.
func wantCall(ctx context.Context, conn *hyper.Conn, req *hyper.Request, want string) error {
	resp, err := conn.Do(ctx, req)
	if err != nil {
		return err
	}
	return grpcBody(resp, func(body io.Reader) error {
		var text strings.Builder
		sum, err := sumOf(io.TeeReader(body, &text))
		if err == nil && sum != want && text.String() != want {
			err = fmt.Errorf("%d bytes with the SHA-256 %s", text.Len(), sum)
		}
		return err
	})
}

// callsOnly is why grpc-go does not serve pages.
const callsOnly = "it serves calls, which are POST"

// noneInGRPC is why grpc-go has no parts of HTTP that gRPC does not use.
const noneInGRPC = "gRPC does not use it"

// grpcChecks are the checks in the form of calls.
var grpcChecks = map[string]func(testing.TB, *running){
	"Download": func(t testing.TB, r *running) {
		check(t, wantCall(r.ctx, r.dial(t, hyper.Config{}), grpcRequest("large.bin", strings.NewReader("")),
			r.largeSum))
	},
	"Upload": func(t testing.TB, r *running) {
		large, err := os.Open(r.largeFile())
		check(t, err)
		defer large.Close()
		check(t, wantCall(r.ctx, r.dial(t, hyper.Config{}), grpcRequest("sum", large), r.largeSum))
	},
	"Echo": func(t testing.TB, r *running) {
		large, err := os.Open(r.largeFile())
		check(t, err)
		defer large.Close()
		check(t, wantCall(r.ctx, r.dial(t, hyper.Config{}), grpcRequest("echo", large), r.largeSum))
	},
	"Trailers": func(t testing.TB, r *running) {
		resp, err := r.dial(t, hyper.Config{}).Do(r.ctx, grpcRequest("small.txt", strings.NewReader("")))
		check(t, err)
		check(t, grpcBody(resp, func(body io.Reader) error {
			_, err := io.Copy(io.Discard, body)
			return err
		}))
		if got := resp.Trailer().Get("x-sum"); got != "abc" {
			t.Errorf("trailer %q", got)
		}
	},
	"Priorities": func(t testing.TB, r *running) {
		conn := r.dial(t, hyper.Config{})
		for _, p := range []hyper.Priority{{Urgency: hyper.MostUrgent}, {Urgency: 7, Incremental: true}} {
			req := grpcRequest("small.txt", strings.NewReader(""))
			req.Priority = p
			check(t, wantCall(r.ctx, conn, req, r.small))
		}
	},
	"UrgentFirst": func(t testing.TB, r *running) {
		urgentFirst(t, r, func(conn *hyper.Conn, p hyper.Priority) (io.ReadCloser, error) {
			req := grpcRequest("large.bin", strings.NewReader(""))
			req.Priority = p
			resp, err := conn.Do(r.ctx, req)
			if err != nil {
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{unframed(resp.Body), resp.Body}, nil
		})
	},
	"ThousandAtOnce": func(t testing.TB, r *running) {
		conn := r.dial(t, hyper.Config{})
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				err := wantCall(r.ctx, conn, grpcRequest("small.txt", strings.NewReader("")), r.small)
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := conn.Stats().StreamsOpened; n != 1000 {
			t.Errorf("%d streams", n)
		}
	},
	"Cleartext": func(t testing.TB, r *running) {
		conn := r.dialTo(t, r.plain, hyper.Config{})
		check(t, wantCall(r.ctx, conn, grpcRequest("small.txt", strings.NewReader("")), r.small))
		sum, err := sumOf(strings.NewReader(r.text))
		check(t, err)
		check(t, wantCall(r.ctx, conn, grpcRequest("sum", strings.NewReader(r.text)), sum))
	},
}

// fetchCall makes a call through rt, and returns the bytes of its messages.
func fetchCall(ctx context.Context, rt http.RoundTripper, url string) (io.ReadCloser, error) {
	i := strings.LastIndexByte(url, '/')
	req, err := http.NewRequestWithContext(ctx, "POST", url[:i]+"/site"+url[i:], http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 200 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return struct {
		io.Reader
		io.Closer
	}{unframed(resp.Body), resp.Body}, nil
}
