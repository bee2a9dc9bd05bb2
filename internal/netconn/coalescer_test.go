package netconn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// wantWrites checks how many writes the socket has had, and how many bytes.
func wantWrites(t *testing.T, when string, pipe *h2test.Conn, writes int, octets int64) {
	t.Helper()
	if n, m := pipe.Writes(), pipe.OctetsWritten(); n != writes || m != octets {
		t.Errorf("%s: %d writes of %d bytes, want %d of %d", when, n, m, writes, octets)
	}
}

func TestReadOfTheHandshakeWritesWhatIsBuffered(t *testing.T) {
	client, server := h2test.Pipe()
	c := NewCoalescer(client)
	c.Write([]byte("Client"))
	c.Write([]byte("Hello"))
	wantWrites(t, "before the read", client, 0, 0)
	server.Write([]byte("ServerHello"))
	p := make([]byte, 64)
	if n, err := c.Read(p); string(p[:n]) != "ServerHello" || err != nil {
		t.Errorf("read %q, %v", p[:n], err)
	}
	wantWrites(t, "after the read", client, 1, 11)

	c.HandshakeDone()
	c.Write([]byte("Finished"))
	server.Write([]byte("SETTINGS"))
	if n, err := c.Read(p); string(p[:n]) != "SETTINGS" || err != nil {
		t.Errorf("read %q, %v", p[:n], err)
	}
	wantWrites(t, "after the handshake", client, 1, 11)
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
	wantWrites(t, "after Flush", client, 2, 19)
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
	wantWrites(t, "after Flush of nothing", client, 2, 19)
}

// A connection with HTTP/1.1 belongs to the caller, which does not flush.
func TestPassThroughEndsTheBuffering(t *testing.T) {
	client, _ := h2test.Pipe()
	c := NewCoalescer(client)
	c.Write([]byte("Finished"))
	if err := c.PassThrough(); err != nil {
		t.Error(err)
	}
	wantWrites(t, "after PassThrough", client, 1, 8)
	c.Write([]byte("GET"))
	wantWrites(t, "after a write", client, 2, 11)
}

func TestFullBufferIsWritten(t *testing.T) {
	client, _ := h2test.Pipe()
	c := NewCoalescer(client)
	c.HandshakeDone()
	record := make([]byte, 16<<10+256) // RFC 8446 §5.2: what TLS may add to 16 KiB
	for range WriteSize / (16 << 10) {
		c.Write(record)
	}
	c.Write(make([]byte, 64))
	wantWrites(t, "four records and a small one", client, 0, 0)
	c.Write(record)
	wantWrites(t, "the fifth", client, 1, 4*(16<<10+256)+64)
	failure := errors.New("broken")
	client.BreakWriteAfter(0, failure)
	for range 3 {
		c.Write(record)
	}
	if n, err := c.Write(record); n != 0 || !errors.Is(err, failure) {
		t.Errorf("a write into a full buffer: %d, %v", n, err)
	}
}

func TestReadOfACoalescer(t *testing.T) {
	client, _ := h2test.Pipe()
	c := NewCoalescer(oddConn{Conn: client, r: newEmptyReader(3, "ab"), w: client})
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("a read into nothing: %d, %v", n, err)
	}
	if got, err := io.ReadAll(c); string(got) != "ab" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	failure := errors.New("broken")
	client.BreakWriteAfter(0, failure)
	c.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, failure) {
		t.Errorf("a read that must write first: %d, %v", n, err)
	}
}

func TestCoalescerReportsAShortWrite(t *testing.T) {
	c := NewCoalescer(oddConn{w: &shortWriter{}})
	c.Write([]byte("abc"))
	if err := c.Flush(); err != io.ErrShortWrite {
		t.Errorf("Flush: %v", err)
	}
	c.PassThrough()
	if n, err := c.Write([]byte("abc")); n != 2 || err != io.ErrShortWrite {
		t.Errorf("a write after PassThrough: %d, %v", n, err)
	}
}

func TestCloseSendsTheAlert(t *testing.T) {
	client, server := h2test.Pipe()
	c := NewCoalescer(client)
	c.Write([]byte("alert"))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(server); string(got) != "alert" || err != nil {
		t.Errorf("the peer reads %q, %v", got, err)
	}
}

func TestCloseDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := h2test.Pipe()
		client.SetWriteBuffer(0)
		c := NewCoalescer(client)
		c.Write([]byte("alert"))
		start := time.Now()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != CloseGrace {
			t.Errorf("Close took %v", took)
		}
	})
}

func TestCloseAndShrinkDoNotWaitForAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := h2test.Pipe()
		client.SetWriteBuffer(0)
		c := NewCoalescer(client)
		c.Write([]byte("record"))
		ended := make(chan error)
		go func() { ended <- c.Flush() }()
		synctest.Wait()
		start := time.Now()
		c.Shrink()
		c.FlushAlert()
		if err := c.Close(); err != nil || time.Since(start) != 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the write: %v", err)
		}
	})
}

func TestShrinkReleasesOnlyAnEmptyBuffer(t *testing.T) {
	client, _ := h2test.Pipe()
	c := NewCoalescer(client)
	c.Write([]byte("record"))
	c.Shrink()
	if string(c.buf) != "record" {
		t.Errorf("the buffer has %q", c.buf)
	}
	c.Flush()
	if cap(c.buf) == 0 {
		t.Error("Flush has released the buffer")
	}
	c.Shrink()
	if cap(c.buf) != 0 {
		t.Errorf("the buffer has a capacity of %d", cap(c.buf))
	}
}

func TestCoalescerBelow(t *testing.T) {
	client, _ := h2test.Pipe()
	c := NewCoalescer(client)
	if got := CoalescerBelow(tls.Client(c, &tls.Config{})); got != c {
		t.Errorf("below TLS: %v", got)
	}
	for _, nc := range []net.Conn{client, c, tls.Client(client, &tls.Config{}), &otherTLS{lower: c}} {
		if got := CoalescerBelow(nc); got != nil {
			t.Errorf("below %T: %v", nc, got)
		}
	}
}

// Without TLS, or with TLS of the caller, there is no Coalescer.
func TestMethodsOfANilCoalescerDoNothing(t *testing.T) {
	var c *Coalescer
	c.HandshakeDone()
	c.Shrink()
	c.FlushAlert()
	if err := errors.Join(c.PassThrough(), c.Flush(), c.CloseWrite()); err != nil {
		t.Error(err)
	}
}

// crypto/tls writes a record for each part of a flight. Over a Coalescer a flight is one write.
func TestHandshakeOverACoalescer(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe()
				config := h2test.ClientTLS()
				config.ServerName, config.MaxVersion = "example.com", version
				c := NewCoalescer(client)
				tc, peer := tls.Client(c, config), tls.Server(server, h2test.ServerTLS())
				go peer.Handshake()
				if err := tc.Handshake(); err != nil {
					t.Fatal(err)
				}
				c.HandshakeDone()
				before := client.Writes()
				data := bytes.Repeat([]byte("0123456789abcdef"), WriteSize/16)
				if _, err := tc.Write(data); err != nil {
					t.Fatal(err)
				}
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				if n := client.Writes() - before; n > 2 {
					t.Errorf("%d writes of 64 KiB, want at most 2", n)
				}
				got := make([]byte, len(data))
				if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("the peer read other bytes, %v", err)
				}
				tc.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := tc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("a read without data: %v", err)
				}
			})
		})
	}
}

// A buffer that was given back may be used again, unless it has grown.
func TestBuffersAreUsedAgain(t *testing.T) {
	grown := append(TakeBuffer(), make([]byte, smallBuffer+1)...)
	for _, b := range [][]byte{TakeBuffer(), append(TakeBuffer(), "used"...), grown, nil} {
		GiveBuffer(b)
	}
	for range 5 {
		if b := TakeBuffer(); len(b) != 0 || cap(b) != smallBuffer {
			t.Errorf("%d of %d bytes", len(b), cap(b))
		}
	}
}
