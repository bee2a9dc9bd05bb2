package hyper

import (
	"fmt"
	"io"
	"net"
	"time"

	"gohyper.dev/hyper/internal/flowlab"
	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// init makes the simulator's clients those of this package.
func init() { flowlab.New = newLab }

// A lab is the flow control of a connection in a simulator's time, without the rest of the
// connection: see package flowlab. It has no goroutine and takes no lock.
type lab struct {
	c     *Conn
	clock flowlab.Clock
	ticks map[*Window]time.Duration // when the ticks of WakeAfter are due
	spare []byte                    // the buffer that Output uses next
}

// newLab is flowlab.New.
func newLab(config any, clock flowlab.Clock) (flowlab.Client, error) {
	cfg, ok := config.(*Config)
	if !ok {
		return nil, fmt.Errorf("hyper: a lab's config is %T", config)
	}
	full, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	nowhere, _ := net.Pipe()
	c := &Conn{
		cfg: full, nc: nowhere, start: time.Now(), done: make(chan struct{}),
		nextID: 1, sendWindow: wire.InitialWindow, peer: initialPeerSettings(),
	}
	c.frames = newFrameReader(nowhere, &c.cfg)
	l := &lab{c: c, clock: clock, ticks: make(map[*Window]time.Duration)}
	c.lab = l
	c.window.c, c.window.credit = c, wire.InitialWindow
	c.appendPrefaceLocked()
	c.window.open(c.cfg.WindowManager)
	return l, nil
}

// wakeAfter implements Window.WakeAfter.
func (l *lab) wakeAfter(w *Window, d time.Duration) {
	at := l.clock.Now() + d
	l.ticks[w] = at
	l.clock.After(d, func() {
		if l.ticks[w] == at && w.manager != nil { // it was neither replaced nor closed
			delete(l.ticks, w)
			l.c.readClockLocked()
			w.update(WindowEvent{Kind: WindowTick})
		}
	})
}

// Open implements flowlab.Client.
func (l *lab) Open() uint32 {
	c := l.c
	c.readClockLocked()
	c.adjustInitialWindowLocked()
	s := &Stream{c: c, id: c.nextID, req: &Request{}, bodyLeft: -1, sender: nothingToSend,
		sendErr: ErrSendEnded}
	s.window.c, s.window.s, s.window.credit = c, s, c.initialWindow
	s.headersStart = c.queued
	c.nextID += 2
	c.addLocked(s)
	h := wire.FrameHeader{Type: wire.Headers, Flags: wire.EndHeaders | wire.EndStream, StreamID: s.id}
	c.append(wire.AppendFrameHeader(c.out, h))
	s.mustLocked(state.SendHeaders)
	s.mustLocked(state.SendEnd)
	s.openWindowLocked()
	return s.id
}

// Headers implements flowlab.Client.
func (l *lab) Headers(stream uint32, length int64) {
	l.c.readClockLocked()
	l.c.recvMessageLocked()
	if s := l.c.streams[stream]; s != nil {
		s.bodyLeft = length
		s.mustLocked(state.RecvHeaders)
		s.window.update(WindowEvent{Kind: WindowHeaders})
	}
}

// Data implements flowlab.Client.
func (l *lab) Data(stream uint32, n int, end bool) error {
	c := l.c
	c.readClockLocked()
	c.recvMessageLocked()
	s := c.streams[stream]
	if s == nil || !c.window.receive(n, 0) || !s.window.receive(n, 0) {
		return fmt.Errorf("stream %d: DATA of %d octets exceeds a window", stream, n)
	}
	if s.bodyLeft >= 0 {
		s.bodyLeft -= int64(n)
	}
	ev := WindowEvent{Kind: WindowData, Bytes: n, End: end}
	c.window.update(ev)
	s.window.update(ev)
	if end {
		s.mustLocked(state.RecvEnd)
		s.recvErr = io.EOF
	}
	return c.err
}

// Read implements flowlab.Client.
func (l *lab) Read(stream uint32, n int) {
	c := l.c
	c.readClockLocked()
	s := c.streams[stream]
	if s == nil {
		return
	}
	c.window.consume(n)
	s.window.consume(n)
	if s.recvErr != nil && s.window.unread == 0 {
		s.window.close()
		delete(c.streams, stream)
	}
}

// Starve implements flowlab.Client.
func (l *lab) Starve(stream uint32) {
	if s := l.c.streams[stream]; s != nil && s.recvErr == nil {
		s.blockedLocked()
	}
}

// SettingsAck implements flowlab.Client.
func (l *lab) SettingsAck() error {
	l.c.readClockLocked()
	if err := l.c.recvSettingsAckLocked(); err != nil {
		return err
	}
	return l.c.err
}

// Pong implements flowlab.Client.
func (l *lab) Pong(data [8]byte) error {
	l.c.readClockLocked()
	h := wire.FrameHeader{Length: len(data), Type: wire.Ping, Flags: wire.Ack}
	return l.c.recvPingLocked(&frame{FrameHeader: h, payload: data[:]})
}

// Output implements flowlab.Client.
func (l *lab) Output() []byte {
	c := l.c
	c.applyGrantsLocked()
	c.fillLocked()
	out := c.out
	c.written = c.queued
	c.out, l.spare = l.spare[:0], out
	return out
}

// Window implements flowlab.Client.
func (l *lab) Window(stream uint32) (credit, unread int) {
	w := &l.c.window
	if stream != 0 {
		s := l.c.streams[stream]
		if s == nil {
			return 0, 0
		}
		w = &s.window
	}
	return int(w.credit), int(w.unread)
}

// Err implements flowlab.Client.
func (l *lab) Err() error { return l.c.err }
