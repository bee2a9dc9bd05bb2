package netconn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// An emptyReader returns 0 and no error so many times before each of its bytes.
type emptyReader struct {
	bytes.Reader
	empty, left int
}

func newEmptyReader(empty int, text string) *emptyReader {
	return &emptyReader{Reader: *bytes.NewReader([]byte(text)), empty: empty, left: empty}
}

func (r *emptyReader) Read(p []byte) (int, error) {
	if r.left > 0 {
		r.left--
		return 0, nil
	}
	r.left = r.empty
	return r.Reader.Read(p[:1])
}

// A shortWriter takes all but the last byte and returns no error.
type shortWriter struct{ bytes.Buffer }

func (w *shortWriter) Write(p []byte) (int, error) { return w.Buffer.Write(p[:len(p)-1]) }

func TestReadSomeReturnsAByteOrAnError(t *testing.T) {
	p := make([]byte, 8)
	r := newEmptyReader(maxEmptyReads-1, "a")
	if n, err := ReadSome(r, p); n != 1 || err != nil || p[0] != 'a' {
		t.Errorf("after %d empty reads: %d, %v", maxEmptyReads-1, n, err)
	}
	if n, err := ReadSome(r, p); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := ReadSome(newEmptyReader(maxEmptyReads, "a"), p); n != 0 || err != io.ErrNoProgress {
		t.Errorf("after %d empty reads: %d, %v", maxEmptyReads, n, err)
	}
}

// io.Writer: Write must return a non-nil error if it returns n < len(p).
func TestWriteAllReportsAShortWrite(t *testing.T) {
	if n, err := WriteAll(&shortWriter{}, []byte("abc")); n != 2 || err != io.ErrShortWrite {
		t.Errorf("a short write: %d, %v", n, err)
	}
	var b bytes.Buffer
	if n, err := WriteAll(&b, []byte("abc")); n != 3 || err != nil || b.String() != "abc" {
		t.Errorf("a whole write: %d, %v, %q", n, err, &b)
	}
}

func TestDiscardReadsToTheEnd(t *testing.T) {
	r := strings.NewReader(strings.Repeat("x", 3*discardSize+1))
	Discard(r)
	if r.Len() > 0 {
		t.Errorf("%d bytes are left", r.Len())
	}
	Discard(newEmptyReader(maxEmptyReads, "a")) // must return
}

// An oddConn is a net.Conn whose Read and Write are those of r and w.
type oddConn struct {
	net.Conn
	r io.Reader
	w io.Writer
}

func (c oddConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c oddConn) Write(p []byte) (int, error) { return c.w.Write(p) }

func TestStrictConnChecksItsResults(t *testing.T) {
	nc := Strict(oddConn{r: newEmptyReader(1, "a"), w: &shortWriter{}})
	if n, err := nc.Read(nil); n != 0 || err != nil {
		t.Errorf("a read into nothing: %d, %v", n, err)
	}
	p := make([]byte, 8)
	if n, err := nc.Read(p); n != 1 || err != nil {
		t.Errorf("a read: %d, %v", n, err)
	}
	if n, err := nc.Write([]byte("abc")); n != 2 || err != io.ErrShortWrite {
		t.Errorf("a write: %d, %v", n, err)
	}
}

// A wholeConn is a connection without any of the optional methods.
type wholeConn struct{ net.Conn }

// A tunnelConn has a NetConn method that is not about the connection below it, and no TLS state.
type tunnelConn struct{ net.Conn }

func (tunnelConn) NetConn() net.Conn { panic("must not be called") }

func TestRawIsTheLowestKnownConnection(t *testing.T) {
	client, _ := h2test.Pipe()
	over := func(nc net.Conn) net.Conn { return tls.Client(nc, &tls.Config{}) }
	early := &earlyConn{Conn: client}
	for name, nc := range map[string]net.Conn{
		"itself":              client,
		"TLS":                 over(client),
		"TLS on a Coalescer":  over(NewCoalescer(client)),
		"strict":              Strict(client),
		"early":               early,
		"TLS in TLS":          over(NewCoalescer(&earlyConn{Conn: over(Strict(client))})),
		"another TLS":         &otherTLS{Conn: over(client), lower: client},
		"another TLS, nested": over(&otherTLS{Conn: client, lower: over(early)}),
	} {
		if got := Raw(nc); got != net.Conn(client) {
			t.Errorf("%s: %T", name, got)
		}
	}
	for _, nc := range []net.Conn{wholeConn{over(client)}, tunnelConn{client}, &bareTLS{Conn: client}} {
		if got := Raw(nc); got != nc {
			t.Errorf("%T: %T", nc, got)
		}
	}
}

func TestCloseWriteCallsTheMethod(t *testing.T) {
	client, server := h2test.Pipe()
	if err := CloseWrite(wholeConn{client}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without the method: %v", err)
	}
	if err := CloseWrite(client); err != nil {
		t.Errorf("with the method: %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer reads %v", err)
	}
}

// RFC 8446 §6.1: close_notify ends one direction. TCP's FIN follows it.
func TestCloseWriteAllEndsTLSAndTheSocket(t *testing.T) {
	for _, coalesced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			client, server := h2test.Pipe()
			var nc net.Conn = client
			if coalesced {
				nc = NewCoalescer(client)
			}
			config := h2test.ClientTLS()
			config.ServerName = "example.com"
			tc, peer := tls.Client(nc, config), tls.Server(server, h2test.ServerTLS())
			go peer.Handshake()
			if err := tc.Handshake(); err != nil {
				t.Fatal(err)
			}
			CoalescerBelow(tc).HandshakeDone()
			CloseWriteAll(tc)
			if got, err := io.ReadAll(peer); len(got) > 0 || err != nil {
				t.Errorf("coalesced %v: the peer reads %q, %v before close_notify", coalesced, got, err)
			}
			if n, err := server.Read(make([]byte, 1)); n > 0 || err != io.EOF {
				t.Errorf("coalesced %v: the socket of the peer reads %d bytes, %v", coalesced, n, err)
			}
			peer.Close()
			if got, err := io.ReadAll(tc); len(got) > 0 || err != nil {
				t.Errorf("coalesced %v: the client reads %q, %v", coalesced, got, err)
			}
		})
	}
}

// A slowCloser takes a minute to close, unless the connection below it is closed.
type slowCloser struct {
	otherTLS
	closed chan struct{} // closed with the connection below
}

func (c *slowCloser) Close() error {
	select {
	case <-c.closed:
	case <-time.After(time.Minute):
	}
	return nil
}

// A noisyConn closes a channel when it is closed.
type noisyConn struct {
	net.Conn
	closed chan struct{}
}

func (c noisyConn) Close() error {
	close(c.closed)
	return nil
}

func TestCloseSoonDoesNotWaitForTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		start := time.Now()
		CloseSoon(&slowCloser{otherTLS{lower: noisyConn{closed: closed}}, closed})
		if took := time.Since(start); took != CloseGrace {
			t.Errorf("a slow close took %v", took)
		}
		client, server := h2test.Pipe()
		start = time.Now()
		CloseSoon(client)
		if took := time.Since(start); took != 0 {
			t.Errorf("a fast close took %v", took)
		}
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the peer reads %v", err)
		}
	})
}
