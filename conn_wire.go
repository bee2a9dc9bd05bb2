package hyper

import (
	"context"
	"fmt"
	"math"

	"gohyper.dev/hyper/internal/wire"
)

// A Wire sets details of a connection that HTTP/2 leaves to the client and that no other option
// changes. It is for tests of servers, and for clients that must send the same bytes as another
// client. The zero value changes nothing.
type Wire struct {
	// FirstFlight are the frames that follow the client preface (RFC 9113 §3.4), unchanged and in
	// this order. They are sent in the same write as the first request, if that comes soon. If
	// FirstFlight is nil, hyper sends SETTINGS of its own; if not, it adds nothing, and
	// Config.Settings must be empty.
	//
	// hyper learns from these frames what it tells the peer. A setting that is in none of their
	// SETTINGS has its initial value (RFC 9113 §6.5.2), and these fields of Config have no effect:
	// InitialStreamWindow, MaxFrameSize, HeaderTableSize, and PushPolicy.Max. MaxHeaderListSize has
	// the value of the setting, if it is there. If ENABLE_PUSH is not 0 and Config.Push is nil,
	// every promise is refused. A WINDOW_UPDATE on stream 0 enlarges the connection's window; the
	// window manager sees that in its first event. A manager that wants a larger window adds a
	// WINDOW_UPDATE, as the default one does if the connection's window is below
	// AdaptiveWindow.Budget. FixedWindow with the announced sizes adds none.
	FirstFlight []Frame

	// EncoderTableSize bounds the compression table for what hyper sends, in bytes, together with
	// the peer's HEADER_TABLE_SIZE. 0 means 4,096. A negative value means no table: no field is
	// indexed. Another size than 4,096 is announced in the first field block (RFC 7541 §4.2).
	EncoderTableSize int

	// OnFrame is called for each frame that the peer sends and that passes the checks of its
	// header, before hyper processes it. The frame may be of any type, also one that hyper ignores,
	// such as ALTSVC. hyper then reads each frame as a whole, up to MAX_FRAME_SIZE. OnFrame runs on
	// the goroutine that reads the connection, without a lock. It must not wait for anything that
	// the peer sends. The payload is valid until it returns. It may be called before Dial or
	// NewConn has returned the connection.
	OnFrame func(*Conn, Frame)
}

// defaultEncoderTable is the default bound of the encoder's compression table in bytes.
const defaultEncoderTable = wire.HeaderTableSize

// clone returns a copy of w that shares nothing changeable with it. w may be nil.
func (w *Wire) clone() *Wire {
	if w == nil {
		return nil
	}
	c := *w
	if w.FirstFlight != nil {
		c.FirstFlight = make([]Frame, len(w.FirstFlight))
		for i, f := range w.FirstFlight {
			c.FirstFlight[i] = f.clone()
		}
	}
	return &c
}

// encoderTableSize returns the bound of the encoder's compression table in bytes.
func (w *Wire) encoderTableSize() uint32 {
	if w == nil || w.EncoderTableSize == 0 {
		return defaultEncoderTable
	}
	return uint32(min(max(0, int64(w.EncoderTableSize)), math.MaxUint32))
}

// firstFlight returns the caller's first flight. nil: there is none.
func (w *Wire) firstFlight() []Frame {
	if w == nil {
		return nil
	}
	return w.FirstFlight
}

// applyFirstFlight sets the fields of c to what the first flight announces.
func (c *Config) applyFirstFlight() {
	if c.Wire.firstFlight() == nil {
		return
	}
	c.InitialStreamWindow, c.MaxFrameSize = wire.InitialWindow, wire.MinMaxFrameSize
	c.HeaderTableSize = wire.HeaderTableSize
	push, pushes := uint32(1), uint32(math.MaxUint32)
	for _, f := range c.Wire.FirstFlight {
		for _, s := range f.settings() {
			switch s.ID {
			case SettingHeaderTableSize:
				c.HeaderTableSize = int(min(int64(s.Value), math.MaxInt))
			case SettingEnablePush:
				push = s.Value
			case SettingMaxConcurrentStreams:
				pushes = s.Value
			case SettingInitialWindowSize:
				c.InitialStreamWindow = int(min(s.Value, wire.MaxWindow))
			case SettingMaxFrameSize:
				c.MaxFrameSize = int(min(max(s.Value, wire.MinMaxFrameSize), wire.MaxMaxFrameSize))
			case SettingMaxHeaderListSize:
				c.MaxHeaderListSize = int(min(int64(s.Value), math.MaxInt))
			}
		}
	}
	switch {
	case push == 0:
		c.Push = nil
	case c.Push == nil:
		c.Push = &PushPolicy{Max: 1, Accept: func(*Push) bool { return false }}
	default:
		c.Push.Max = int(min(int64(max(pushes, 1)), math.MaxInt))
	}
}

// settings returns the entries of SETTINGS that are sent, unless they are an acknowledgment.
func (f Frame) settings() []Setting {
	if f.Flags&FlagAck != 0 || f.StreamID != 0 {
		return nil
	}
	return f.Settings()
}

// tellReceived calls Wire.OnFrame. The frame reader calls it.
func (c *Conn) tellReceived(h wire.FrameHeader, p []byte) {
	c.cfg.Wire.OnFrame(c, Frame{FrameType(h.Type), FrameFlags(h.Flags), h.StreamID, p})
}

// check returns an error if w cannot be used with c. w may be nil.
func (w *Wire) check(c *Config) error {
	if w.firstFlight() == nil {
		return nil
	}
	if len(c.Settings) > 0 {
		return fmt.Errorf("hyper: Config.Settings and Config.Wire.FirstFlight are both set")
	}
	for _, f := range w.FirstFlight {
		if err := f.check(); err != nil {
			return err
		}
	}
	return nil
}

// check returns an error if f cannot be sent.
func (f Frame) check() error {
	if len(f.Payload) > wire.MaxMaxFrameSize {
		return fmt.Errorf("hyper: %v: a payload has up to %d bytes", f.header(), wire.MaxMaxFrameSize)
	}
	return nil
}

// appendFirstFlightLocked appends the client preface and the caller's first flight to out.
func (c *Conn) appendFirstFlightLocked() {
	c.writer.add(append(make([]byte, 0, 256), wire.ClientPreface...))
	c.flow.initialWindow = int64(c.cfg.InitialStreamWindow)
	for _, f := range c.cfg.Wire.FirstFlight {
		c.appendFrameLocked(f)
	}
	c.cfg.Wire.FirstFlight = nil
}

// WriteFrame sends frames as they are, with nothing between them, in their place among what the
// connection sends. It is for tests of servers: no frame is checked, and what the peer makes of it
// is the caller's affair. Only the size of a payload has a bound, 2^24-1 bytes, which may exceed
// the peer's MAX_FRAME_SIZE.
//
// The frames do not change the state of streams and of the connection. For example, a stream that
// was ended by such an RST_STREAM stays open here until it is reset or its context ends. But what
// the other streams depend on stays in step with the peer:
//
//   - DATA counts in the windows of the connection and of the stream, even beyond them.
//   - The increment of a WINDOW_UPDATE is added to the window.
//   - SETTINGS wait for their acknowledgment. Their values are not applied: use UpdateSettings for
//     that.
//   - After a field block, the next one of hyper begins by emptying the compression table.
//   - An identifier of a request that is not used yet is used up, with all lower ones, unless the
//     frame is PRIORITY or of a type above CONTINUATION. What the peer sends on it is discarded, up
//     to the bound for all that is discarded (about 10 MB at once); Wire.OnFrame sees it.
//
// WriteFrame returns when the frames have been added to the bytes to write. It waits while too many
// bytes wait for the peer to read them. After the end of the connection it returns the error of the
// connection. While the connection is draining, frames can be sent.
func (c *Conn) WriteFrame(ctx context.Context, frames ...Frame) error {
	mustHave(ctx != nil, "Conn.WriteFrame", "context.Context")
	for _, f := range frames {
		if err := f.check(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	c.lock()
	defer c.unlock()
	if err := c.waitForRoomUnlocking(ctx); err != nil {
		return err
	}
	for _, f := range frames {
		c.appendFrameLocked(f)
	}
	c.uncorkLocked()
	return nil
}

// appendFrameLocked appends f to out, and notes what the peer will count.
func (c *Conn) appendFrameLocked(f Frame) {
	id := f.StreamID & wire.MaxStreamID
	s := c.streams.byID[id]
	c.writer.add(append(wire.AppendFrameHeader(c.writer.out, f.header()), f.Payload...))
	switch f.Type {
	case FrameData:
		c.flow.sendWindow -= int64(len(f.Payload))
		if s != nil {
			s.sendDelta -= int64(len(f.Payload))
		}
	case FrameHeaders, FrameContinuation, FramePushPromise:
		c.writer.fields.Foreign()
	case FrameSettings:
		if f.Flags&FlagAck == 0 {
			due := sentSettings{sent: c.clock(), untimed: c.settings.sent > 0}
			c.settings.due = append(c.settings.due, due)
			c.settings.sent++
		}
	case FrameWindowUpdate:
		if len(f.Payload) != 4 {
			break
		}
		n := int64(wire.ParseWindowUpdate(f.Payload))
		switch {
		case id == 0:
			c.flow.window.credit = min(c.flow.window.credit+n, wire.MaxWindow)
		case s != nil:
			s.window.credit = min(s.window.credit+n, wire.MaxWindow)
		}
	}
	c.passIDLocked(id, f.Type)
}

// passIDLocked makes id unavailable to requests, if a frame of that type takes it out of the idle
// state for the peer.
func (c *Conn) passIDLocked(id uint32, t FrameType) {
	if id%2 == 0 || id < c.streams.nextID || t == FramePriority || t > FrameContinuation {
		return
	}
	c.streams.nextID = id + 2
	if c.streams.nextID > wire.MaxStreamID {
		c.reports.stateChanged = true
		c.beginDrainingLocked(ReasonExhausted)
		c.slots.waiting.WakeAll() // no slot would help them
	}
}
