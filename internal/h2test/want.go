package h2test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// Handshake takes the client's preface, sends SETTINGS and an acknowledgment, and waits for the
// client's acknowledgment. That acknowledgment is taken wherever it is in the queue, and so is a
// WINDOW_UPDATE with which the client makes the connection's window larger. All other frames stay
// for the next Want. Handshake returns the client's settings.
func (p *Peer) Handshake(settings ...wire.Setting) []wire.Setting {
	p.t.Helper()
	theirs := p.WantPreface("the handshake")
	p.Batch(func() {
		p.WriteSettings(settings...)
		p.WriteSettingsAck()
	})
	err := p.await(func() bool {
		ack := slices.IndexFunc(p.queue, func(f Frame) bool {
			return f.Type == wire.Settings && f.Flags.Has(wire.Ack)
		})
		if ack < 0 {
			return false
		}
		p.queue = slices.Delete(p.queue, ack, ack+1)
		enlarge := slices.IndexFunc(p.queue[:ack], func(f Frame) bool {
			return f.Type == wire.WindowUpdate && f.StreamID == 0
		})
		if enlarge >= 0 {
			p.queue = slices.Delete(p.queue, enlarge, enlarge+1)
		}
		return true
	})
	if err != nil {
		p.fail("the handshake", "SETTINGS len=0 ACK", p.failure(err))
	}
	return theirs
}

// WantPreface takes the client's preface and its first SETTINGS, and returns the settings.
func (p *Peer) WantPreface(reason string) []wire.Setting {
	p.t.Helper()
	f := p.want(reason, "the client preface and SETTINGS", func(f Frame) bool {
		return f.Type == wire.Settings && !f.Flags.Has(wire.Ack)
	})
	return slices.Collect(wire.ParseSettings(f.Payload))
}

// WantFrame takes the next frame, which must be of type t on any stream, and returns it.
func (p *Peer) WantFrame(reason string, t wire.FrameType) Frame {
	p.t.Helper()
	return p.want(reason, t.String(), func(f Frame) bool { return f.Type == t })
}

// WantHeaders takes a header block that has at least these "name: value" lines, in any order.
func (p *Peer) WantHeaders(reason string, stream uint32, fields ...string) Headers {
	p.t.Helper()
	return p.wantHeaders(reason, stream, "with at least", fields, func(got []string) bool {
		for _, line := range fields {
			if !slices.Contains(got, line) {
				return false
			}
		}
		return true
	})
}

// WantHeadersExactly takes a header block that has these "name: value" lines in this order, and no
// others.
func (p *Peer) WantHeadersExactly(reason string, stream uint32, fields ...string) Headers {
	p.t.Helper()
	return p.wantHeaders(reason, stream, "with exactly", fields, func(got []string) bool {
		return slices.Equal(got, fields)
	})
}

// wantHeaders takes a header block of the stream whose lines satisfy ok.
func (p *Peer) wantHeaders(reason string, stream uint32, how string, fields []string,
	ok func(got []string) bool) Headers {
	p.t.Helper()
	wanted := fmt.Sprintf("HEADERS stream=%d", stream)
	if len(fields) > 0 {
		wanted += " " + how + "\n\t" + strings.Join(fields, "\n\t")
	}
	f := p.want(reason, wanted, func(f Frame) bool {
		return f.Type == wire.Headers && f.StreamID == stream && ok(lines(f.Headers.Fields))
	})
	return *f.Headers
}

// lines returns the fields as "name: value" lines; it is the inverse of parseField.
func lines(fields []hpack.HeaderField) []string {
	out := make([]string, len(fields))
	for i, f := range fields {
		out[i] = f.Name + ": " + f.Value
	}
	return out
}

// WantData takes one DATA frame of n bytes without padding, and returns the bytes. flags is
// wire.EndStream or 0.
func (p *Peer) WantData(reason string, stream uint32, flags wire.Flags, n int) []byte {
	p.t.Helper()
	h := wire.FrameHeader{Length: n, Type: wire.Data, Flags: flags, StreamID: stream}
	return p.want(reason, h.String(), func(f Frame) bool { return f.FrameHeader == h }).Payload
}

// WantBody takes unpadded DATA frames of the stream until END_STREAM or trailers. The trailers stay
// for WantHeaders. The bytes of the frames must be equal to body.
func (p *Peer) WantBody(reason string, stream uint32, body []byte) {
	p.t.Helper()
	wanted := fmt.Sprintf("DATA stream=%d, %d bytes in all", stream, len(body))
	var got []byte
	for end := false; !end; {
		f := p.want(reason, wanted, func(f Frame) bool {
			return f.StreamID == stream && (f.Type == wire.Headers || f.Type == wire.Data &&
				!f.Flags.Has(wire.Padded))
		})
		if f.Type == wire.Headers {
			p.unread(f)
			break
		}
		got = append(got, f.Payload...)
		end = f.Flags.Has(wire.EndStream)
	}
	if !bytes.Equal(got, body) {
		same := 0
		for same < min(len(got), len(body)) && got[same] == body[same] {
			same++
		}
		p.fail(reason, wanted, fmt.Sprintf("%d bytes, which differ from byte %d on: want %.32q, got %.32q",
			len(got), same, body[same:], got[same:]))
	}
}

// WantRSTStream takes a RST_STREAM frame.
func (p *Peer) WantRSTStream(reason string, stream uint32, code wire.ErrCode) {
	p.t.Helper()
	p.wantExactly(reason, wire.AppendRSTStream(nil, stream, code))
}

// WantWindowUpdate takes a WINDOW_UPDATE frame; stream 0 is the connection.
func (p *Peer) WantWindowUpdate(reason string, stream uint32, increment int) {
	p.t.Helper()
	p.wantExactly(reason, wire.AppendWindowUpdate(nil, stream, increment))
}

// WantSettingsAck takes the acknowledgment of the peer's SETTINGS.
func (p *Peer) WantSettingsAck(reason string) {
	p.t.Helper()
	p.wantExactly(reason, wire.AppendSettingsAck(nil))
}

// WantPing takes a PING with flags, wire.Ack or 0, and returns its eight bytes.
func (p *Peer) WantPing(reason string, flags wire.Flags) [8]byte {
	p.t.Helper()
	h := wire.FrameHeader{Length: 8, Type: wire.Ping, Flags: flags}
	f := p.want(reason, h.String(), func(f Frame) bool { return f.FrameHeader == h })
	return wire.ParsePing(f.Payload)
}

// WantGoAway takes a GOAWAY frame and returns its debug data.
func (p *Peer) WantGoAway(reason string, last uint32, code wire.ErrCode) (debug string) {
	p.t.Helper()
	wanted := fmt.Sprintf("GOAWAY last=%d code=%v", last, code)
	f := p.want(reason, wanted, func(f Frame) bool {
		if f.Type != wire.GoAway {
			return false
		}
		gotLast, gotCode, _ := wire.ParseGoAway(f.Payload)
		return gotLast == last && gotCode == code
	})
	return string(f.Payload[8:])
}

// WantClosed requires that the client has closed the connection and has sent no frame before. Over
// [TLSServer] the client must have sent close_notify.
func (p *Peer) WantClosed(reason string) {
	p.t.Helper()
	f, err := p.Next()
	_, broken := err.(violation)
	switch {
	case err == nil:
		p.fail(reason, "the connection closed", f.String())
	// The test itself closed the connection in the case of net.ErrClosed.
	case err == errSilent, broken, errors.Is(err, ErrNoCloseNotify), errors.Is(err, net.ErrClosed):
		p.fail(reason, "the connection closed", p.failure(err))
	}
}

// WantIdle requires that the connection is open and that the client has sent nothing more when
// every goroutine of the bubble is blocked. It works only in a testing/synctest bubble.
func (p *Peer) WantIdle(reason string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	i := slices.IndexFunc(p.queue, func(f Frame) bool { return !p.ignored[f.Type] })
	var got string
	switch {
	case i >= 0:
		got = p.queue[i].String()
	case p.err != nil:
		got = p.failureLocked(p.err)
	}
	p.mu.Unlock()
	if got != "" {
		p.fail(reason, "an idle connection", got)
	}
}

// wantExactly takes a frame that has exactly the bytes of frame.
func (p *Peer) wantExactly(reason string, frame []byte) {
	p.t.Helper()
	h, payload := wire.ParseFrameHeader(frame), frame[wire.HeaderLen:]
	p.want(reason, h.Text(payload), func(f Frame) bool {
		return f.FrameHeader == h && bytes.Equal(f.Payload, payload)
	})
}

// want takes the next frame, which must satisfy ok. wanted describes it.
func (p *Peer) want(reason, wanted string, ok func(Frame) bool) Frame {
	p.t.Helper()
	f, err := p.Next()
	if err != nil {
		p.fail(reason, wanted, p.failure(err))
	}
	if !ok(f) {
		p.fail(reason, wanted, f.String())
	}
	return f
}

// failure describes what came instead of a frame.
func (p *Peer) failure(err error) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failureLocked(err)
}

// failureLocked is failure for a caller that holds p.mu.
func (p *Peer) failureLocked(err error) string {
	if _, ok := err.(violation); ok {
		p.reported = true
		return "what no client may send: " + err.Error()
	}
	if err == errSilent {
		return fmt.Sprintf("nothing within %v", wantTimeout)
	}
	return fmt.Sprintf("the end of the connection: %v", err)
}

// fail fails the test with the reason, and with the last frames.
func (p *Peer) fail(reason, wanted, got string) {
	p.t.Helper()
	p.t.Fatalf("%s:\nwant %s\ngot  %s\nthe last frames, -> by the client:\n%s", reason, wanted, got, p.Log())
}

// WantBody reads body to its end.
func WantBody(t *testing.T, reason string, body io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(body)
	if err != nil || string(got) != want {
		t.Fatalf("%s: got %q, %v, want %q", reason, got, err, want)
	}
}

// WantFullCredit requires that the peer may send all of the connection's initial window again.
func WantFullCredit(t *testing.T, peer *Peer, reason string) {
	t.Helper()
	synctest.Wait()
	if n := peer.Credit(0); n != wire.InitialWindow {
		t.Fatalf("%s: the connection's window is %d, want %d\n%s", reason, n, wire.InitialWindow, peer.Log())
	}
}

// ReadBytes reads n bytes of body.
func ReadBytes(t *testing.T, body io.Reader, n int) {
	t.Helper()
	if got, err := io.ReadFull(body, make([]byte, n)); err != nil {
		t.Fatalf("read %d of %d bytes: %v", got, n, err)
	}
}

// WithTimeout returns a context that ends after d, or with the test.
func WithTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
