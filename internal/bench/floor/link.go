package floor

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"sync"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A Dialer makes the connection below TLS.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// A link is a connection that writes frames in groups: the first caller that commits yields
// once and then writes what all others have added meanwhile.
type link struct {
	tls    *tls.Conn
	socket *socket
	reader reader

	mu         sync.Mutex // guards what follows
	out, spare []byte
	writing    bool
	next       uint32 // id of the next stream
	err        error  // why the link has ended
	unread     int    // bytes of DATA since the last WINDOW_UPDATE; only pump uses it
}

// dial connects to addr and prepares the client's first frames.
func dial(addr string, d Dialer) (*link, error) {
	if d == nil {
		d = new(net.Dialer).DialContext
	}
	nc, err := d(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &link{socket: newSocket(nc, socketBuffer), next: 1}
	l.tls = tls.Client(l.socket, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		DynamicRecordSizingDisabled: true, NextProtos: []string{"h2"}})
	if err := l.tls.Handshake(); err != nil {
		nc.Close()
		return nil, err
	}
	l.reader = newReader(l.tls, recordBuffer)
	l.out, l.spare = append(make([]byte, 0, 1<<16), wire.ClientPreface...), make([]byte, 0, 1<<16)
	l.out = wire.AppendSettings(l.out, wire.Setting{ID: wire.SettingEnablePush},
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: window},
		wire.Setting{ID: wire.SettingMaxFrameSize, Value: frameSize})
	l.out = wire.AppendWindowUpdate(l.out, 0, window-65535)
	return l, nil
}

// close closes the connection.
func (l *link) close() { l.tls.NetConn().Close() }

// commitUnlocking writes what is in out, together with what others add meanwhile. The caller has
// locked mu, and commitUnlocking unlocks it.
func (l *link) commitUnlocking(alone bool) {
	if l.writing {
		l.mu.Unlock()
		return
	}
	l.writing = true
	if !alone {
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
	for len(l.out) > 0 && l.err == nil {
		b := l.out
		l.out = l.spare[:0]
		l.mu.Unlock()
		_, err := l.tls.Write(b)
		l.mu.Lock()
		l.spare = b
		if err != nil {
			l.err = err
		}
	}
	l.writing = false
	l.mu.Unlock()
}

// control answers SETTINGS and PING. It returns an error if the peer ends a stream or the link.
func (l *link) control(f frame) error {
	switch f.Type {
	case wire.RSTStream, wire.GoAway:
		return &peerError{f.FrameHeader.Text(f.payload)}
	case wire.Settings, wire.Ping:
		if f.Flags.Has(wire.Ack) {
			return nil
		}
		l.mu.Lock()
		if f.Type == wire.Settings {
			l.out = wire.AppendSettingsAck(l.out)
		} else {
			l.out = wire.AppendPing(l.out, wire.Ack, wire.ParsePing(f.payload))
		}
		l.commitUnlocking(true)
	}
	return nil
}

// credit gives the connection's window back when half of it was used.
func (l *link) credit() {
	if l.unread < window/2 {
		return
	}
	l.mu.Lock()
	l.out = wire.AppendWindowUpdate(l.out, 0, l.unread)
	l.unread = 0
	l.commitUnlocking(true)
}

// A peerError is a frame by which the peer ended a stream or the link.
type peerError struct{ frame string }

// Error returns the frame.
func (e *peerError) Error() string { return "floor: the peer sent " + e.frame }

// block returns the field block of a GET.
func block(enc *hpack.Encoder, buf *bytes.Buffer, authority, path string) []byte {
	buf.Reset()
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", authority},
		{":path", path}, {"user-agent", "floor/1"}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return bytes.Clone(buf.Bytes())
}
