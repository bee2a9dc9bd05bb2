package hypergrpc

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A script has the scripted peers of a client: one for each connection that it makes.
type script struct {
	t     *testing.T
	calls testgrpc.TestServiceClient
	peers chan *h2test.Peer
}

// scripted runs test in a bubble of virtual time, with a client whose peers the test plays.
func scripted(t *testing.T, test func(*script)) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, peers: make(chan *h2test.Peer, 100)}
		c := NewClient("http://peer.test", &hyper.Config{KeepAlive: -1,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				client, server := h2test.Pipe()
				peer := h2test.NewPeer(t, server)
				peer.AutoPing()
				peer.Ignore(wire.WindowUpdate, wire.RSTStream, wire.GoAway)
				s.peers <- peer
				return client, nil
			}})
		defer synctest.Wait()
		defer c.Close()
		s.calls = testgrpc.NewTestServiceClient(c)
		test(s)
	})
}

// peer returns the peer of the next connection.
func (s *script) peer() *h2test.Peer {
	s.t.Helper()
	select {
	case p := <-s.peers:
		p.Handshake()
		return p
	case <-time.After(time.Hour):
		s.t.Fatal("there is no other connection")
		return nil
	}
}

// unary begins a unary call and returns the channel of its error.
func (s *script) unary(opts ...grpc.CallOption) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := s.calls.EmptyCall(s.t.Context(), &testgrpc.Empty{}, opts...)
		done <- err
	}()
	return done
}

// wantCode requires that err has a code and that its text has a part.
func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("the error is %v, want %v with %q", err, code, text)
	}
}

// message returns an encoded message with its prefix.
func message(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// wantCall takes a unary call of EmptyCall.
func wantCall(p *h2test.Peer, stream uint32) {
	p.WantHeaders("the call", stream, ":method: POST", ":path: /grpc.testing.TestService/EmptyCall",
		"content-type: application/grpc", "te: trailers", "grpc-accept-encoding: gzip")
	p.WantData("its message", stream, wire.EndStream, prefix)
}

// answer sends a response with an empty message and the status OK.
func answer(p *h2test.Peer, stream uint32) {
	p.WriteHeaders(stream, 0, ":status: 200", "content-type: application/grpc")
	p.WriteData(stream, 0, make([]byte, prefix))
	p.WriteTrailers(stream, "grpc-status: 0")
}

// What the server has not seen is sent again at once
// (https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
func TestRefusedUnaryCallIsSentAgain(t *testing.T) {
	scripted(t, func(s *script) {
		done := s.unary()
		p := s.peer()
		wantCall(p, 1)
		p.WriteRSTStream(1, wire.RefusedStream)
		wantCall(p, 3)
		answer(p, 3)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUnaryCallThatGoAwayExcludesIsSentAgain(t *testing.T) {
	scripted(t, func(s *script) {
		done := s.unary()
		first := s.peer()
		wantCall(first, 1)
		first.WriteGoAway(0, wire.NoError, "")
		second := s.peer()
		wantCall(second, 1)
		answer(second, 1)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// GOAWAY ends no call that it includes. The next call goes to another connection.
func TestGoAwayLetsCallsFinish(t *testing.T) {
	scripted(t, func(s *script) {
		old := s.unary()
		first := s.peer()
		wantCall(first, 1)
		first.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		done := s.unary()
		second := s.peer()
		wantCall(second, 1)
		answer(second, 1)
		answer(first, 1)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := <-old; err != nil {
			t.Error(err)
		}
	})
}

// A server that refuses everything gets a call a bounded number of times.
func TestRetriesAreBounded(t *testing.T) {
	scripted(t, func(s *script) {
		done := s.unary()
		p := s.peer()
		for stream := uint32(1); stream <= 3; stream += 2 {
			wantCall(p, stream)
			p.WriteRSTStream(stream, wire.RefusedStream)
		}
		wantCode(t, <-done, codes.Unavailable, "REFUSED_STREAM")
		p.WantIdle("after two refusals")

		done = s.unary()
		wantCall(p, 5)
		p.WriteGoAway(3, wire.NoError, "")
		for range maxTries - 1 {
			p := s.peer()
			wantCall(p, 1)
			p.WriteGoAway(0, wire.NoError, "")
		}
		wantCode(t, <-done, codes.Unavailable, "GOAWAY")
		if len(s.peers) > 0 {
			t.Error("there is another connection")
		}
	})
}

// What the server may have processed is not sent again.
func TestLostCallIsNotSentAgain(t *testing.T) {
	scripted(t, func(s *script) {
		done := s.unary()
		p := s.peer()
		wantCall(p, 1)
		p.Close()
		wantCode(t, <-done, codes.Unavailable, "")
		if len(s.peers) > 0 {
			t.Error("there is another connection")
		}
	})
}

// All messages of a refused stream are sent again, in their order, before those that follow.
func TestRefusedStreamIsSentAgain(t *testing.T) {
	for _, by := range []string{"RecvMsg", "SendMsg", "CloseSend"} {
		t.Run(by, func(t *testing.T) {
			scripted(t, func(s *script) {
				p := make(chan *h2test.Peer, 1)
				go func() { p <- s.peer() }()
				stream, err := s.calls.FullDuplexCall(s.t.Context())
				if err != nil {
					t.Fatal(err)
				}
				peer := <-p
				send := func(n int32) {
					if err := stream.Send(numbered(n)); err != nil {
						t.Error(err)
					}
				}
				send(1)
				send(2)
				synctest.Wait()
				sent := append(message(t, numbered(1)), message(t, numbered(2))...)
				peer.WantHeaders("the call", 1)
				peer.WantData("the first message", 1, 0, len(sent)/2)
				peer.WantData("the second message", 1, 0, len(sent)/2)
				peer.WriteRSTStream(1, wire.RefusedStream)
				synctest.Wait()
				received := make(chan error, 1)
				receive := func() {
					_, err := stream.Recv()
					received <- err
				}
				switch by {
				case "RecvMsg":
					go receive()
					synctest.Wait()
					send(3)
					stream.CloseSend()
				case "SendMsg":
					send(3)
					stream.CloseSend()
					go receive()
				case "CloseSend":
					stream.CloseSend()
					go receive()
				}
				synctest.Wait()
				peer.WantHeaders("the call again", 3)
				if by != "CloseSend" {
					sent = append(sent, message(t, numbered(3))...)
				}
				peer.WantBody("all messages", 3, sent)
				peer.WriteHeaders(3, wire.EndStream, ":status: 200", "content-type: application/grpc",
					"grpc-status: 0")
				if err := <-received; err != io.EOF {
					t.Errorf("the call ends with %v", err)
				}
			})
		})
	}
}

// numbered returns a message with a number.
func numbered(n int32) *testgrpc.StreamingOutputCallRequest {
	return &testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: n}}}
}

// A stream that has sent more than is kept is not sent again.
func TestLongStreamIsNotSentAgain(t *testing.T) {
	scripted(t, func(s *script) {
		p := make(chan *h2test.Peer, 1)
		go func() { p <- s.peer() }()
		stream, err := s.calls.StreamingInputCall(s.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		peer := <-p
		peer.WriteWindowUpdate(0, 1<<20)
		peer.WriteWindowUpdate(1, 1<<20)
		synctest.Wait()
		big := &testgrpc.StreamingInputCallRequest{Payload: &testgrpc.Payload{Body: make([]byte, maxReplay)}}
		if err := stream.Send(big); err != nil {
			t.Fatal(err)
		}
		peer.WriteRSTStream(1, wire.RefusedStream)
		synctest.Wait()
		if err := stream.Send(big); err != io.EOF {
			t.Errorf("Send returned %v, want EOF", err)
		}
		_, err = stream.CloseAndRecv()
		wantCode(t, err, codes.Unavailable, "REFUSED_STREAM")
	})
}

// Each response that breaks the rules has a code. No response is taken for a success.
func TestBadResponses(t *testing.T) {
	grpcHeader := []string{":status: 200", "content-type: application/grpc"}
	ok := []string{"grpc-status: 0"}
	notFound := []string{"grpc-status: 5", "grpc-message: a%20%E2%98%BA"}
	for _, c := range []struct {
		name    string
		header  []string
		data    string
		trailer []string // nil: none
		code    codes.Code
		text    string
	}{
		{"page not found", []string{":status: 404", "content-type: text/html"}, "<html>", nil,
			codes.Unimplemented, "status 404"},
		{"overloaded proxy", []string{":status: 503"}, "", nil, codes.Unavailable, "status 503"},
		{"page", []string{":status: 200", "content-type: application/grpcweb"}, "", nil, codes.Unknown,
			`"application/grpcweb"`},
		{"no trailers", grpcHeader, "\x00\x00\x00\x00\x00", nil, codes.Internal, "without trailers"},
		{"no status", grpcHeader, "\x00\x00\x00\x00\x00", []string{"a: b"}, codes.Unknown, "grpc-status"},
		{"status that is no number", grpcHeader, "\x00\x00\x00\x00\x00", []string{"grpc-status: ok"},
			codes.Unknown, "grpc-status"},
		{"no message", grpcHeader, "", ok, codes.Internal, "no message"},
		{"two messages", grpcHeader, strings.Repeat("\x00", 2*prefix), ok, codes.Internal, "second message"},
		{"message and error", grpcHeader, "\x00\x00\x00\x00\x00",
			[]string{"grpc-status: 5", "grpc-message: a%20%E2%98%BA%zz"}, codes.NotFound, "a%20"},
		{"error", grpcHeader, "", notFound, codes.NotFound, "a ☺"},
		{"half a message", grpcHeader, "\x00\x00\x00\x00\x09abc", ok, codes.Internal, "unexpected EOF"},
		{"half a prefix", grpcHeader, "\x00\x00", ok, codes.Internal, "unexpected EOF"},
		{"message of 4 GiB", grpcHeader, "\x00\xff\xff\xff\xff", ok, codes.ResourceExhausted,
			"4294967295 bytes"},
		{"unknown flags", grpcHeader, "\x02\x00\x00\x00\x00", ok, codes.Internal, "0x2"},
		{"no grpc-encoding", grpcHeader, "\x01\x00\x00\x00\x00", ok, codes.Internal, "grpc-encoding"},
		{"broken gzip", append(grpcHeader, "grpc-encoding: gzip"), "\x01\x00\x00\x00\x01a",
			ok, codes.Internal, "decompress"},
		{"broken protobuf", grpcHeader, "\x00\x00\x00\x00\x01\xff", ok, codes.Internal, "unmarshal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			scripted(t, func(s *script) {
				done := s.unary()
				p := s.peer()
				wantCall(p, 1)
				p.WriteHeaders(1, 0, c.header...)
				if c.trailer == nil {
					p.WriteData(1, wire.EndStream, []byte(c.data))
				} else {
					p.WriteData(1, 0, []byte(c.data))
					p.WriteTrailers(1, c.trailer...)
				}
				wantCode(t, <-done, c.code, c.text)
			})
		})
	}
}

// RST_STREAM has the code that the specification gives it.
func TestResetsHaveCodes(t *testing.T) {
	for reset, code := range map[wire.ErrCode]codes.Code{
		wire.NoError: codes.Internal, wire.ProtocolError: codes.Internal, wire.InternalError: codes.Internal,
		wire.FlowControlError: codes.ResourceExhausted, wire.Cancel: codes.Canceled,
		wire.EnhanceYourCalm: codes.ResourceExhausted, wire.InadequateSecurity: codes.PermissionDenied,
	} {
		t.Run(reset.String(), func(t *testing.T) {
			scripted(t, func(s *script) {
				done := s.unary()
				p := s.peer()
				wantCall(p, 1)
				p.WriteRSTStream(1, reset)
				wantCode(t, <-done, code, reset.String())
			})
		})
	}
}

// A message takes memory as its bytes arrive, and not when its length is announced.
func TestAnnouncedMessageTakesNoMemory(t *testing.T) {
	scripted(t, func(s *script) {
		p := make(chan *h2test.Peer, 1)
		go func() { p <- s.peer() }()
		call, err := s.calls.FullDuplexCall(s.t.Context(), grpc.MaxCallRecvMsgSize(1<<31-1))
		if err != nil {
			t.Fatal(err)
		}
		received := make(chan error, 1)
		go func() {
			_, err := call.Recv()
			received <- err
		}()
		peer := <-p
		peer.WantHeaders("the call", 1)
		peer.WriteHeaders(1, 0, ":status: 200", "content-type: application/grpc")
		peer.WriteData(1, 0, append([]byte("\x00\x7f\xff\xff\x00"), make([]byte, 5000)...))
		synctest.Wait()
		peer.WriteData(1, wire.EndStream, nil)
		wantCode(t, <-received, codes.Internal, "unexpected EOF")
		inner := call.(*grpc.GenericClientStream[testgrpc.StreamingOutputCallRequest,
			testgrpc.StreamingOutputCallResponse]).ClientStream.(*stream)
		if n := inner.in.Cap(); n > 2*maxKept {
			t.Errorf("the buffer has %d bytes", n)
		}
	})
}

// A server that ends each connection before its SETTINGS is not dialed again by the next call.
func TestServerWithoutSettingsIsNotDialedAtOnce(t *testing.T) {
	scripted(t, func(s *script) {
		first, second := s.unary(), s.unary()
		(<-s.peers).Close()
		wantCode(t, <-first, codes.Unavailable, "no connection")
		wantCode(t, <-second, codes.Unavailable, "no connection")
		wantCode(t, <-s.unary(), codes.Unavailable, "no connection")
		if len(s.peers) > 0 {
			t.Error("there is another connection")
		}
		time.Sleep(2 * time.Second)
		done := s.unary()
		p := s.peer()
		wantCall(p, 1)
		answer(p, 1)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
