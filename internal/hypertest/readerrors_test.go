package hypertest

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// Calls that receive check for the same errors in the same order: the connection was closed, the
// stream has ended and nothing of it is unread, the read deadline has passed. Stream says that its
// methods return the same error each time after it has ended, as the body of net/http does. So a
// deadline does not replace that error. The deadline holds back data, as on a net.Conn. It does not
// hold back a response that was received, because it only bounds the wait for it.
func TestReadErrorsComeInOneOrder(t *testing.T) {
	isReset := func(err error) bool {
		var e *hyper.StreamError
		return errors.As(err, &e) && e.FromPeer
	}
	is := func(want error) func(error) bool {
		return func(err error) bool { return errors.Is(err, want) }
	}
	response, deadline, done := is(nil), is(os.ErrDeadlineExceeded),
		func(err error) bool { return err == io.EOF }
	tests := map[string]struct {
		end          func(*h2test.Peer, *hyper.Conn, *hyper.Stream)
		drain        bool // the body is read before the deadline passes
		header, body func(error) bool
	}{
		"in progress": {func(*h2test.Peer, *hyper.Conn, *hyper.Stream) {}, false, response, deadline},
		"unread data": {func(p *h2test.Peer, _ *hyper.Conn, _ *hyper.Stream) {
			p.WriteData(1, 0, []byte("x"))
		}, false, response, deadline},
		"unread data before the end": {func(p *h2test.Peer, _ *hyper.Conn, _ *hyper.Stream) {
			p.WriteData(1, wire.EndStream, []byte("x"))
		}, false, response, deadline},
		"complete and read, the request goes on": {func(p *h2test.Peer, _ *hyper.Conn, _ *hyper.Stream) {
			p.WriteData(1, wire.EndStream, []byte("x"))
		}, true, response, done},
		"complete and read": {func(p *h2test.Peer, _ *hyper.Conn, s *hyper.Stream) {
			s.CloseWrite()
			p.WantData("the end of the request", 1, wire.EndStream, 0)
			p.WriteData(1, wire.EndStream, []byte("x"))
		}, true, response, done},
		"reset by the peer": {func(p *h2test.Peer, _ *hyper.Conn, _ *hyper.Stream) {
			p.WriteRSTStream(1, wire.InternalError)
		}, false, response, isReset},
		"reset by the caller": {func(_ *h2test.Peer, _ *hyper.Conn, s *hyper.Stream) {
			s.Reset(hyper.ErrCodeCancel)
		}, false, is(hyper.ErrCanceled), is(hyper.ErrCanceled)},
		"connection closed": {func(_ *h2test.Peer, c *hyper.Conn, _ *hyper.Stream) {
			c.Close()
		}, false, is(hyper.ErrClosed), is(hyper.ErrClosed)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.Ignore(wire.RSTStream, wire.GoAway)
				s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				resp, err := s.Response(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				test.end(peer, conn, s)
				synctest.Wait()
				if test.drain {
					h2test.WantBody(t, "before the deadline", resp.Body, "x")
				}
				s.SetReadDeadline(time.Now().Add(-time.Second))
				for range 2 {
					if _, err := s.Response(t.Context()); !test.header(err) {
						t.Errorf("Response: %v", err)
					}
					if n, err := resp.Body.Read(make([]byte, 10)); n != 0 || !test.body(err) {
						t.Errorf("Read: %d, %v", n, err)
					}
				}
			})
		})
	}
}
