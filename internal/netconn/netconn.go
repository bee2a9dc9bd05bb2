// Package netconn has what a client needs of connections below HTTP: reads and writes that make
// progress, the connections below a connection, TLS connections of any implementation, TLS records
// joined into larger writes, and tunnels through a proxy. It knows net.Conn and TLS, but neither
// HTTP/2 nor the connections of package hyper.
package netconn

import (
	"errors"
	"io"
	"net"
	"time"
)

// CloseGrace is how long the last write on a connection, and closing it, may take.
const CloseGrace = 200 * time.Millisecond

// maxEmptyReads is how many times in a row a Read may return neither bytes nor an error. bufio has
// the same limit.
const maxEmptyReads = 100

// discardSize is the size of the buffer of Discard, in bytes.
const discardSize = 4 << 10

// ReadSome reads at least one byte into p, which must not be empty. io.Reader allows a Read that
// returns 0 and no error, although it discourages it. After 100 of these in a row, ReadSome returns
// io.ErrNoProgress.
func ReadSome(r io.Reader, p []byte) (n int, err error) {
	for range maxEmptyReads {
		if n, err = r.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// WriteAll writes p. It returns io.ErrShortWrite if w writes less and returns no error, which
// io.Writer forbids: the peer would misread the bytes that follow.
func WriteAll(w io.Writer, p []byte) (n int, err error) {
	if n, err = w.Write(p); n < len(p) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// Discard reads r to its end, or to its first error.
func Discard(r io.Reader) {
	p := make([]byte, discardSize)
	for {
		if _, err := ReadSome(r, p); err != nil {
			return
		}
	}
}

// Strict returns nc with the Read of ReadSome and the Write of WriteAll. It is for code that does
// not check their results as closely as these functions.
func Strict(nc net.Conn) net.Conn { return &strictConn{nc} }

// A strictConn is a connection that Strict has returned.
type strictConn struct{ net.Conn }

// Read implements net.Conn.
func (c *strictConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	return ReadSome(c.Conn, p)
}

// Write implements net.Conn.
func (c *strictConn) Write(p []byte) (int, error) { return WriteAll(c.Conn, p) }

// Raw returns the lowest connection below nc, which is nc itself if nothing below it is known.
// Closing it does not block, unlike closing TLS.
func Raw(nc net.Conn) net.Conn {
	for {
		lower := below(nc)
		if lower == nil {
			return nc
		}
		nc = lower
	}
}

// below returns the connection that nc writes to, or nil if none is known.
func below(nc net.Conn) net.Conn {
	switch c := nc.(type) {
	case tlsOverConn:
		return c.NetConn()
	case *Coalescer:
		return c.Conn
	case *earlyConn:
		return c.Conn
	case *strictConn:
		return c.Conn
	}
	if stated, ok := TLSOf(nc).(*statedConn); ok {
		return stated.lower()
	}
	return nil
}

// CloseWrite calls nc's CloseWrite method. Without such a method, the error is
// errors.ErrUnsupported.
func CloseWrite(nc net.Conn) error {
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// CloseWriteAll ends the writing direction of nc and then of each connection below it: TLS with
// close_notify, TCP with FIN. It skips a connection that has no CloseWrite method.
func CloseWriteAll(nc net.Conn) {
	for nc != nil {
		CloseWrite(nc)
		if nc = below(nc); nc != nil {
			// After its close_notify, crypto/tls leaves an expired write deadline on the
			// connections below.
			nc.SetWriteDeadline(time.Now().Add(CloseGrace))
		}
	}
}

// CloseSoon closes nc. If the TLS alert for the close takes longer than CloseGrace, it closes the
// connection below TLS.
func CloseSoon(nc net.Conn) {
	raw := Raw(nc)
	force := time.AfterFunc(CloseGrace, func() { raw.Close() })
	nc.Close()
	force.Stop()
}
