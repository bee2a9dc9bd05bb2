package hypertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// TLS and TCP take part in the end of a connection. Most tests in this file therefore use real
// sockets.

// A transcript is what a peer has read from a connection: whole frames, and how the connection
// ended.
type transcript struct {
	frames []wire.FrameHeader
	bodies [][]byte
	err    error // of the last read; over TLS it is io.EOF only after close_notify
	raw    error // of a read of the socket after that; nil after FIN
	sent   error // of the peer's write of the bytes that break a rule
}

// goAway returns the contents of the last frame, which must be a GOAWAY.
func (tr *transcript) goAway(t *testing.T) (last uint32, code wire.ErrCode, debug string) {
	t.Helper()
	end := len(tr.frames) - 1
	if end < 0 || tr.frames[end].Type != wire.GoAway {
		t.Fatalf("the last frame is no GOAWAY: %v, then %v", tr.frames, tr.err)
	}
	last, code, data := wire.ParseGoAway(tr.bodies[end])
	return last, code, string(data)
}

// wantOrderlyEnd requires close_notify if there is TLS, then FIN, and no reset of the connection.
func (tr *transcript) wantOrderlyEnd(t *testing.T) {
	t.Helper()
	if tr.err != io.EOF || tr.raw != nil || tr.sent != nil {
		t.Errorf("not orderly: the end is %v, of the socket %v, of the peer's own octets %v", tr.err, tr.raw,
			tr.sent)
	}
}

// has reports whether a frame with the header h was read.
func (tr *transcript) has(h wire.FrameHeader) bool { return slices.Contains(tr.frames, h) }

// A tcpPeer is the peer's end of one connection.
type tcpPeer struct {
	conn net.Conn // over TLS, or the same as raw
	raw  net.Conn
	br   *bufio.Reader
	tr   transcript
}

// readTo reads frames up to the first one of type typ.
func (p *tcpPeer) readTo(typ wire.FrameType) {
	for {
		var octets [wire.HeaderLen]byte
		if _, p.tr.err = io.ReadFull(p.br, octets[:]); p.tr.err != nil {
			return
		}
		h := wire.ParseFrameHeader(octets[:])
		body := make([]byte, h.Length)
		if _, p.tr.err = io.ReadFull(p.br, body); p.tr.err != nil {
			return
		}
		p.tr.frames, p.tr.bodies = append(p.tr.frames, h), append(p.tr.bodies, body)
		if h.Type == typ {
			return
		}
	}
}

// readToEnd reads the rest of the connection, and then notes how the socket ends.
func (p *tcpPeer) readToEnd() {
	p.readTo(0xff)
	_, p.tr.raw = io.Copy(io.Discard, p.raw)
}

// A tcpServer serves one connection with a script, over TLS or in cleartext.
type tcpServer struct {
	listener net.Listener
	result   chan *transcript
}

// newTCPServer returns a server that runs script when it has read the first request's HEADERS.
func newTCPServer(t *testing.T, cleartext bool, script func(*tcpPeer)) *tcpServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &tcpServer{listener: l, result: make(chan *transcript, 1)}
	go func() {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(10 * time.Second))
		p := &tcpPeer{conn: raw, raw: raw}
		if !cleartext {
			p.conn = h2test.TLSServer(raw, "h2")
		}
		p.br = bufio.NewReader(p.conn)
		p.br.Discard(len(wire.ClientPreface))
		p.readTo(wire.Headers)
		script(p)
		s.result <- &p.tr
	}()
	return s
}

// dial connects to the server, whatever the address is.
func (s *tcpServer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", s.listener.Addr().String())
}

// plainConn has only the methods of net.Conn, and thus no CloseWrite.
type plainConn struct{ net.Conn }

// eachSocket runs test for each door, over real sockets with CloseWrite and without it.
func eachSocket(t *testing.T, script func(*tcpPeer),
	test func(t *testing.T, d door, rt http.RoundTripper, s *tcpServer)) {
	for _, d := range doors {
		for _, hidden := range []bool{false, true} {
			name := d.name
			if hidden {
				name += "WithoutCloseWrite"
			}
			t.Run(name, func(t *testing.T) {
				s := newTCPServer(t, d.cleartext, script)
				dial := s.dial
				if hidden {
					dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						nc, err := s.dial(ctx, network, addr)
						return plainConn{nc}, err
					}
				}
				test(t, d, d.enter(t, dial, hyper.Config{}), s)
			})
		}
	}
}

// get sends GET through rt.
func (d door) get(t *testing.T, rt http.RoundTripper) (*http.Response, error) {
	t.Helper()
	scheme := "https"
	if d.cleartext {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", scheme+"://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return rt.RoundTrip(req)
}

// Closing a socket that has unread data resets the connection, and a reset may discard what the
// peer has not read yet. A peer that breaks a rule and continues to send must still receive
// everything that was due: the acknowledgment of SETTINGS, GOAWAY with its reason, close_notify and
// FIN.
func TestPeerThatKeepsSendingFindsTheLastWords(t *testing.T) {
	script := func(p *tcpPeer) {
		bad := wire.AppendSettings(nil)
		bad = wire.AppendData(bad, 3, 0, []byte("on an idle stream"))
		bad = append(bad, make([]byte, 256<<10)...)
		_, p.tr.sent = p.conn.Write(bad)
		p.readToEnd()
	}
	eachSocket(t, script, func(t *testing.T, d door, rt http.RoundTripper, s *tcpServer) {
		if _, err := d.get(t, rt); !errorIs(err, hyper.ErrCodeProtocol) {
			t.Errorf("the request: %v, want a PROTOCOL_ERROR", err)
		}
		tr := <-s.result
		last, code, debug := tr.goAway(t)
		if last != 0 || code != wire.ProtocolError || !strings.Contains(debug, "idle stream 3") {
			t.Errorf("GOAWAY last=%d code=%v debug=%q", last, code, debug)
		}
		if !tr.has(wire.FrameHeader{Type: wire.Settings, Flags: wire.Ack}) {
			t.Errorf("the acknowledgment that was due is missing: %v", tr.frames)
		}
		tr.wantOrderlyEnd(t)
	})
}

// errorIs reports whether err has a ConnError of this side with the given code.
func errorIs(err error, code hyper.ErrCode) bool {
	var ce *hyper.ConnError
	return errors.As(err, &ce) && ce.Code == code && !ce.FromPeer
}

// The final frames of Close and Shutdown, and an RST_STREAM before them, reach the peer. This holds
// for every way to make a connection.
func TestCloseAndShutdownSendGoAway(t *testing.T) {
	connects := []struct {
		door
		connect func(context.Context, dialFunc, hyper.Config) (*hyper.Conn, error)
	}{
		{door{name: "Dial"}, dialTLS},
		{door{name: "NewConnTLS"}, newConnTLS},
		{door{name: "NewConnCleartext", cleartext: true}, newConn},
	}
	ends := []struct {
		name string
		end  func(*testing.T, *hyper.Conn, *hyper.Stream)
	}{
		{"Close", func(_ *testing.T, c *hyper.Conn, _ *hyper.Stream) { c.Close() }},
		{"ResetAndClose", func(_ *testing.T, c *hyper.Conn, s *hyper.Stream) {
			s.Reset(hyper.ErrCodeCancel)
			c.Close()
		}},
		{"ResetAndShutdown", func(t *testing.T, c *hyper.Conn, s *hyper.Stream) {
			s.Reset(hyper.ErrCodeCancel)
			if err := c.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}},
	}
	for _, via := range connects {
		for _, e := range ends {
			for _, wrap := range []func(net.Conn) net.Conn{func(nc net.Conn) net.Conn { return nc },
				func(nc net.Conn) net.Conn { return plainConn{nc} }} {
				t.Run(via.name+e.name, func(t *testing.T) {
					t.Parallel()
					s := newTCPServer(t, via.cleartext, (*tcpPeer).readToEnd)
					conn, err := via.connect(t.Context(),
						func(ctx context.Context, network, addr string) (net.Conn, error) {
							nc, err := s.dial(ctx, network, addr)
							return wrap(nc), err
						}, hyper.Config{})
					if err != nil {
						t.Fatal(err)
					}
					stream, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
					if err != nil {
						t.Fatal(err)
					}
					e.end(t, conn, stream)
					tr := <-s.result
					if last, code, _ := tr.goAway(t); last != 0 || code != wire.NoError {
						t.Errorf("GOAWAY last=%d code=%v", last, code)
					}
					reset := wire.FrameHeader{Length: 4, Type: wire.RSTStream, StreamID: 1}
					if tr.has(reset) != strings.HasPrefix(e.name, "Reset") {
						t.Errorf("the reset: %v", tr.frames)
					}
					tr.wantOrderlyEnd(t)
				})
			}
		}
	}
}

// When the connection ends, a request that was not sent is removed from the write queue, so that it
// can be sent on another connection. The frames that the connection itself had to send are still
// written.
func TestWhatIsOwedIsWrittenThoughARequestBeforeItIsTakenBack(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		if !v.own || v.name == "Open" {
			t.Skip("one connection is enough")
		}
		first := v.get("/1")
		peer := v.accept()
		peer.WantHeaders("the first request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := first.Want(t, "the header")
		synctest.Wait()
		peer.client.SetWriteBuffer(0)
		second := v.get("/2") // fills the write in progress
		synctest.Wait()
		third := v.get("/3") // waits for the next write
		synctest.Wait()
		resp.Body.Close() // RST_STREAM waits too
		peer.Batch(func() {
			peer.WriteSettings()
			peer.WritePing(0, [8]byte{1})
		})
		synctest.Wait()
		peer.WriteData(9, 0, []byte("on an idle stream"))
		synctest.Wait()
		peer.client.SetWriteBuffer(-1)
		peer.WantHeaders("it was on its way", 3, ":path: /2")
		peer.WantRSTStream("the peer knows the stream", 1, wire.Cancel)
		peer.WantSettingsAck("due before the mistake")
		peer.WantPing("due before the mistake", wire.Ack)
		peer.WantGoAway("the mistake", 0, wire.ProtocolError)
		peer.WantClosed("and the end")
		if err := second.WantErr(t, "it was sent"); hyper.Retryable(err) {
			t.Errorf("%v: is Retryable", err)
		}
		if err := third.WantErr(t, "it was not sent"); !hyper.Retryable(err) {
			t.Errorf("%v: is not Retryable", err)
		}
	})
}

// The client waits only a short time for a peer that does not end its direction of the connection.
func TestPeerThatNeverEndsIsWaitedForBriefly(t *testing.T) {
	const grace = 200 * time.Millisecond
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		call := v.get("/")
		peer := v.accept()
		peer.WantHeaders("the request", 1)
		if v.name == "Open" {
			peer.WantData("its end", 1, wire.EndStream, 0)
		}
		peer.WriteData(9, 0, []byte("on an idle stream"))
		peer.WantGoAway("the mistake", 0, wire.ProtocolError)
		peer.WantClosed("our direction ends")
		call.WantErr(t, "it is lost")
		closed := func() bool { return peer.client.SetReadDeadline(time.Time{}) != nil }
		time.Sleep(grace - 1)
		if closed() {
			t.Error("the connection was closed before the peer had the time to end its direction")
		}
		time.Sleep(2 * time.Nanosecond)
		if !closed() {
			t.Errorf("the connection is still there after %v", grace)
		}
	})
}

// TLS that does not meet RFC 9113 §9.2 is a connection error (§5.4.1). The client sends GOAWAY
// after the preface.
func TestInadequateTLSIsReportedByGoAway(t *testing.T) {
	for _, d := range doors {
		if d.cleartext {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peers, overHTTP1 := make(chan *h2test.Peer, 1), errors.New("HTTP/1.1 is tried")
				var dials atomic.Int64
				rt := d.enter(t, func(context.Context, string, string) (net.Conn, error) {
					if dials.Add(1) > 1 {
						return nil, overHTTP1
					}
					client, server := h2test.Pipe()
					config := h2test.ServerTLS("h2")
					config.MaxVersion, config.CipherSuites = tls.VersionTLS12,
						[]uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
					peers <- h2test.NewPeer(t, tls.Server(server, config))
					return client, nil
				},
					hyper.Config{TLS: &tls.Config{
						CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}})
				call := h2test.Go(func() (*http.Response, error) { return d.get(t, rt) })
				peer := <-peers
				peer.WantPreface("frames come after it")
				if debug := peer.WantGoAway("the cipher suite", 0,
					wire.InadequateSecurity); !strings.Contains(debug, "CBC") {
					t.Errorf("debug data %q", debug)
				}
				peer.WantClosed("the connection is of no use")
				err := call.WantErr(t, "the request")
				if many := d.name == "TransportTLS" || d.viaNetHTTP(); many && !errors.Is(err, overHTTP1) {
					t.Errorf("%v, want that of HTTP/1.1", err)
				} else if !many && !errorIs(err, hyper.ErrCodeInadequateSecurity) {
					t.Errorf("%v, want INADEQUATE_SECURITY", err)
				}
			})
		})
	}
}

// After a malformed record TLS ends with an alert. The alert reaches the peer even if a write is in
// progress.
func TestAlertOfTLSReachesThePeer(t *testing.T) {
	for _, writing := range []bool{false, true} {
		client, server := h2test.Pipe()
		peer := h2test.NewPeer(t, h2test.TLSServer(server, "h2"))
		conn, err := dialTLS(t.Context(), func(context.Context, string, string) (net.Conn,
			error) {
			return client, nil
		}, hyper.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer.Handshake()
		if writing {
			client.SetWriteBuffer(0)
			writes := client.Writes()
			doAsync(t.Context(), conn, &hyper.Request{})
			until(func() bool { return client.Writes() > writes }) // the write blocks
			peer.WritePing(0, [8]byte{})                           // its acknowledgment is the next write
			until(func() bool { return client.OctetsRead() == server.OctetsWritten() })
		}
		server.Write([]byte("\x17\x03\x03\x00\x14this is no record..."))
		until(func() bool { return client.OctetsRead() == server.OctetsWritten() })
		client.SetWriteBuffer(-1)
		for err == nil {
			_, err = peer.Next()
		}
		if !strings.Contains(err.Error(), "remote error: tls: bad record MAC") {
			t.Errorf("writing %v: the peer finds %v", writing, err)
		}
	}
}

// until polls until ok returns true. Tests use it for goroutines that block on locks of crypto/tls,
// which synctest does not count as blocked.
func until(ok func() bool) {
	for !ok() {
		time.Sleep(time.Millisecond)
	}
}
