package hyper

import (
	"context"
	"fmt"
	"math"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// A Setting is one entry of a SETTINGS frame, by number (RFC 9113 §6.5.2).
type Setting struct {
	ID    uint16
	Value uint32
}

// The settings by their names in the RFCs.
const (
	SettingHeaderTableSize       = uint16(wire.SettingHeaderTableSize)
	SettingEnablePush            = uint16(wire.SettingEnablePush)
	SettingMaxConcurrentStreams  = uint16(wire.SettingMaxConcurrentStreams)
	SettingInitialWindowSize     = uint16(wire.SettingInitialWindowSize)
	SettingMaxFrameSize          = uint16(wire.SettingMaxFrameSize)
	SettingMaxHeaderListSize     = uint16(wire.SettingMaxHeaderListSize)
	SettingEnableConnectProtocol = uint16(wire.SettingEnableConnectProtocol) // RFC 8441
	SettingNoRFC7540Priorities   = uint16(wire.SettingNoRFC7540Priorities)   // RFC 9218
)

// String gives the setting's name in the RFC, and its value.
func (s Setting) String() string { return fmt.Sprintf("%v=%d", wire.SettingID(s.ID), s.Value) }

// PeerSettings is what the peer asks of us, with the protocol's initial values for what it has not said.
type PeerSettings struct {
	Received              bool   // its first SETTINGS are here
	HeaderTableSize       uint32 // octets
	MaxConcurrentStreams  uint32 // 2^32-1: no limit
	InitialWindowSize     uint32 // octets
	MaxFrameSize          uint32 // octets
	MaxHeaderListSize     uint32 // octets, 32 counted per field; 2^32-1: no limit
	EnableConnectProtocol bool   // RFC 8441
	Other                 []Setting
}

// PeerSettings returns the peer's settings as they are now.
func (c *Conn) PeerSettings() PeerSettings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peer.public()
}

// WaitSettings waits for the peer's first SETTINGS and returns the settings as they are then. Requests need not
// wait: they go out at once, with at most 100 at a time until then.
func (c *Conn) WaitSettings(ctx context.Context) (PeerSettings, error) {
	mustHave(ctx != nil, "Conn.WaitSettings", "context.Context")
	c.mu.Lock()
	defer c.unlock()
	c.uncorkLocked()
	err := c.waitSettingsLocked(ctx)
	return c.peer.public(), err
}

func (c *Conn) waitSettingsLocked(ctx context.Context) error {
	for !c.peer.known && c.err == nil {
		if err := c.waitLocked(ctx, &c.settingsQ); err != nil {
			return err
		}
	}
	return c.overLocked()
}

// awaitSettings waits for the peer's first SETTINGS: with its limits known, no body is sent that
// the peer has to refuse. A slot that is reserved is given back where the request ends first. That
// the connection ends is for the caller to find.
func (c *Conn) awaitSettings(ctx context.Context, cancel <-chan struct{}, how turn) error {
	c.mu.Lock()
	defer c.unlock()
	c.uncorkLocked()
	for !c.peer.known && c.err == nil {
		if err := c.waitOrCancelLocked(ctx, cancel, &c.settingsQ); err != nil {
			if how == reserved {
				c.slots.reserved--
				c.giveSlotLocked()
			}
			return err
		}
	}
	return nil
}

// UpdateSettings sends SETTINGS and waits until the peer has acknowledged them. What may change
// while the connection lives is INITIAL_WINDOW_SIZE, which moves the receive windows of all open
// streams (their managers hear of it by a WindowSettings event), and extensions, which hyper itself
// ignores. Adaptive takes the new INITIAL_WINDOW_SIZE for the largest that it announces.
func (c *Conn) UpdateSettings(ctx context.Context, settings ...Setting) error {
	mustHave(ctx != nil, "Conn.UpdateSettings", "context.Context")
	due := sentSettings{}
	list := make([]wire.Setting, len(settings))
	for i, s := range settings {
		list[i] = wire.Setting{ID: wire.SettingID(s.ID), Value: s.Value}
		if err := list[i].Check(); err != nil {
			return fmt.Errorf("hyper: %v is out of range", s)
		}
		switch s.ID {
		case SettingInitialWindowSize:
			due.window = true
		case SettingHeaderTableSize, SettingEnablePush, SettingMaxConcurrentStreams, SettingMaxFrameSize, SettingMaxHeaderListSize:
			return fmt.Errorf("hyper: %v cannot change on a live connection", wire.SettingID(s.ID))
		}
	}
	c.mu.Lock()
	defer c.unlock()
	if err := c.waitForRoomLocked(ctx); err != nil {
		return err
	}
	size := c.initialWindow
	for _, s := range list {
		if s.ID == wire.SettingInitialWindowSize {
			size = int64(s.Value)
		}
	}
	due.shift = size - c.initialWindow
	for id, s := range c.streams {
		// RFC 9113 §6.9.2: a change that lets any window exceed 2^31-1 is a FLOW_CONTROL_ERROR.
		if s.window.credit+due.shift > wire.MaxWindow {
			return fmt.Errorf("hyper: INITIAL_WINDOW_SIZE=%d raises the window of stream %d above 2^31-1", size, id)
		}
	}
	c.sendSettingsLocked(due, list...)
	if path, ok := c.window.manager.(*adaptivePath); ok && due.window {
		path.top, path.announced = int(size), int(size)
	}
	c.uncorkLocked()
	number := c.settingsSent
	for c.settingsAcked < number && c.err == nil {
		if err := c.waitLocked(ctx, &c.settingsQ); err != nil {
			return err
		}
	}
	return c.overLocked()
}

// sendSettingsLocked puts SETTINGS among the bytes to write. due says what they change.
func (c *Conn) sendSettingsLocked(due sentSettings, list ...wire.Setting) {
	c.initialWindow += due.shift
	c.append(wire.AppendSettings(c.out, list...))
	due.below, due.belowPush = c.nextID, c.lastPushID
	due.sent = c.clock()
	if due.shift > 0 { // the peer may use the larger window as soon as it reads this
		c.shiftWindowsLocked(due)
	}
	c.settingsSent++
	c.settingsDue = append(c.settingsDue, due)
	if at := c.settingsByLocked(); at > 0 && c.lab == nil {
		c.armLocked(at)
	}
}

// adjustInitialWindowLocked is called before a stream is opened. Adaptive announces a smaller
// initial window where too much of its budget would be promised to streams that are not read, and
// the configured one again when they are few. The peer takes frames in order (RFC 9113 §6.5.3), so
// the new size holds for the stream whose HEADERS follow.
func (c *Conn) adjustInitialWindowLocked() {
	path, ok := c.window.manager.(*adaptivePath)
	if !ok {
		return
	}
	now := c.now // of the last read
	if path.announced != path.top {
		now = c.clock()
	}
	size := path.initialFor(c.pushes, now)
	shift := int64(size) - c.initialWindow
	if shift == 0 {
		return
	}
	c.sendSettingsLocked(sentSettings{window: true, untimed: true, shift: shift}, wire.Setting{ID: wire.SettingInitialWindowSize, Value: uint32(size)})
	path.announce(size, now)
}

// sentSettings are SETTINGS of ours that the peer has not acknowledged yet.
type sentSettings struct {
	sent      time.Duration
	window    bool   // INITIAL_WINDOW_SIZE is among them
	untimed   bool   // the caller did not ask for them: a busy peer may take longer than SettingsTimeout
	shift     int64  // by which it moves the windows
	below     uint32 // of streams of ours below this
	belowPush uint32 // and of pushes up to this; later ones began with the new size
}

// shiftWindowsLocked moves the receive windows that were open when due was sent.
func (c *Conn) shiftWindowsLocked(due sentSettings) {
	for id, s := range c.streams {
		if due.covers(id) {
			s.window.credit += due.shift
		}
	}
}

func (due sentSettings) covers(id uint32) bool {
	if id%2 == 1 {
		return id < due.below
	}
	return id <= due.belowPush || due.shift < 0
}

// promisedWindowLocked is the initial window of a push that is promised now. The peer did not know of a smaller one of ours that it
// has not acknowledged: that is applied with the acknowledgment, as to all others.
func (c *Conn) promisedWindowLocked() int64 {
	size := c.initialWindow
	for _, due := range c.settingsDue {
		size -= min(due.shift, 0)
	}
	return size
}

// peerSettings are the peer's SETTINGS as they apply to what we send.
type peerSettings struct {
	known          bool
	tableSize      uint32
	maxStreams     uint32
	initialWindow  int64
	maxFrame       int
	maxHeaderList  uint32
	connectAllowed bool
	other          []Setting
}

func initialPeerSettings() peerSettings {
	return peerSettings{
		tableSize:     wire.HeaderTableSize,
		maxStreams:    unlimitedSlots,
		initialWindow: wire.InitialWindow,
		maxFrame:      wire.MinMaxFrameSize,
		maxHeaderList: math.MaxUint32,
	}
}

func (p *peerSettings) public() PeerSettings {
	return PeerSettings{
		Received:              p.known,
		HeaderTableSize:       p.tableSize,
		MaxConcurrentStreams:  p.maxStreams,
		InitialWindowSize:     uint32(p.initialWindow),
		MaxFrameSize:          uint32(p.maxFrame),
		MaxHeaderListSize:     p.maxHeaderList,
		EnableConnectProtocol: p.connectAllowed,
		Other:                 append([]Setting(nil), p.other...),
	}
}

// maxOtherSettings bounds how many unknown settings are kept to be shown.
const maxOtherSettings = 32

func (c *Conn) recvSettingsLocked(f *frame) error {
	if f.Flags.Has(wire.Ack) {
		return c.recvSettingsAckLocked()
	}
	for s := range wire.ParseSettings(f.payload) {
		if err := c.applyLocked(s); err != nil {
			return err
		}
	}
	if !c.peer.known {
		c.peer.known = true
		c.slots.limit = c.peer.maxStreams
		c.news = c.news || c.slots.wanted // what is not here is to be had on another connection
		c.armDueLocked()                  // it owes us an acknowledgment now
	}
	c.settingsQ.WakeAll()
	c.admitLocked()
	// RFC 9113 §6.5.3: the acknowledgment follows once the values are in effect; what is in out behind it obeys them.
	c.append(wire.AppendSettingsAck(c.out))
	if err := c.owedLocked(); err != nil {
		return err
	}
	return c.noiseLocked()
}

// applyLocked puts one setting of the peer into effect.
func (c *Conn) applyLocked(s wire.Setting) error {
	if err := s.Check(); err != nil {
		return err
	}
	switch s.ID {
	case wire.SettingHeaderTableSize:
		c.peer.tableSize = s.Value
		c.fields.setTableSize(s.Value)
	case wire.SettingEnablePush:
		if s.Value != 0 { // RFC 9113 §6.5.2: a server MUST NOT set it to 1
			return connErr(ProtocolError, "SETTINGS of a server with ENABLE_PUSH=1")
		}
	case wire.SettingMaxConcurrentStreams:
		c.peer.maxStreams = s.Value
		c.slots.limit = s.Value
	case wire.SettingInitialWindowSize:
		return c.setInitialSendWindowLocked(int64(s.Value))
	case wire.SettingMaxFrameSize:
		c.peer.maxFrame = int(s.Value)
	case wire.SettingMaxHeaderListSize:
		c.peer.maxHeaderList = s.Value
	case wire.SettingEnableConnectProtocol:
		// RFC 8441 §3: a sender MUST NOT go back from 1 to 0.
		if c.peer.connectAllowed && s.Value == 0 {
			return connErr(ProtocolError, "SETTINGS take ENABLE_CONNECT_PROTOCOL back")
		}
		c.peer.connectAllowed = s.Value == 1
	default:
		c.peer.setOther(Setting{uint16(s.ID), s.Value})
	}
	return nil
}

func (p *peerSettings) setOther(s Setting) {
	for i := range p.other {
		if p.other[i].ID == s.ID {
			p.other[i].Value = s.Value
			return
		}
	}
	if len(p.other) < maxOtherSettings {
		p.other = append(p.other, s)
	}
}

// setInitialSendWindowLocked moves the send windows of all streams at once: a stream keeps only its difference to this
// base, so that the peer cannot make us walk all streams as often as it likes (RFC 9113 §6.9.2).
func (c *Conn) setInitialSendWindowLocked(size int64) error {
	if size+c.maxDelta > wire.MaxWindow {
		c.maxDelta = 0 // it was an upper bound; now it is made exact, once
		for _, s := range c.streams {
			c.maxDelta = max(c.maxDelta, s.sendDelta)
		}
		// RFC 9113 §6.9.2: a change that lets any window exceed 2^31-1 is a FLOW_CONTROL_ERROR.
		if size+c.maxDelta > wire.MaxWindow {
			return connErr(FlowControlError, "INITIAL_WINDOW_SIZE=%d raises a stream's window above 2^31-1", size)
		}
	}
	if size > c.peer.initialWindow {
		c.unblock = true // writeLoop looks through the blocked streams, once however often this changes
	}
	c.peer.initialWindow = size
	return nil
}

func (c *Conn) recvSettingsAckLocked() error {
	if len(c.settingsDue) == 0 || c.corked {
		return c.noiseLocked() // RFC 9113 has no word on an acknowledgment of nothing, or of what we have not sent
	}
	due := c.settingsDue[0]
	if c.settingsDue = c.settingsDue[1:]; len(c.settingsDue) == 0 {
		c.settingsDue = nil
	}
	c.frames.settingsAcked()
	c.settingsAcked++
	if due.window {
		if due.shift < 0 {
			c.shiftWindowsLocked(due)
		}
		for id, s := range c.streams {
			if due.covers(id) {
				s.window.update(WindowEvent{Kind: WindowSettings, Bytes: int(due.shift)})
				if s.window.readers > 0 {
					s.window.starve()
				}
			}
		}
	}
	c.settingsQ.WakeAll()
	c.sampleRTTLocked(due.sent)
	return nil
}
