package hyper

import (
	"time"

	"gohyper.dev/hyper/internal/tracing"
	"gohyper.dev/hyper/internal/wire"
)

// keptCount is how many frames Config.KeepFrames keeps, and keptPayload how many bytes of the
// payload of each.
const (
	keptCount   = 64
	keptPayload = 60
)

// keptFrames holds the last frames of a connection.
type keptFrames struct {
	next  int // how many frames there were
	frame [keptCount]keptFrame
}

// A keptFrame is one frame with the beginning of its payload.
type keptFrame struct {
	at      time.Duration // since the connection was made
	header  wire.FrameHeader
	sent    bool
	n       uint8 // bytes of payload
	payload [keptPayload]byte
}

// keep keeps a frame. t.kept must not be nil.
func (t *connTracer) keep(h wire.FrameHeader, p []byte, sent bool) {
	now := t.c.clock()
	t.keptMu.Lock()
	defer t.keptMu.Unlock()
	f := &t.kept.frame[t.kept.next%keptCount]
	t.kept.next++
	f.at, f.header, f.sent, f.n = now, h, sent, 0
	switch h.Type {
	case wire.Data, wire.Headers, wire.Continuation:
	default:
		f.n = uint8(copy(f.payload[:], p))
	}
}

// lastFrames returns the kept frames as lines of text, the oldest first. t may be nil.
func (t *connTracer) lastFrames() (lines []string) {
	if t == nil || t.kept == nil {
		return nil
	}
	t.keptMu.Lock()
	kept := *t.kept
	t.keptMu.Unlock()
	for i := max(0, kept.next-keptCount); i < kept.next; i++ {
		f := &kept.frame[i%keptCount]
		arrow := " <- "
		if f.sent {
			arrow = " -> "
		}
		text := tracing.Redact(f.header.Text(f.payload[:f.n]))
		lines = append(lines, f.at.Round(time.Microsecond).String()+arrow+text)
	}
	return lines
}
