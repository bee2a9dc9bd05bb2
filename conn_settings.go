package hyper

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// A SettingID is the identifier of a setting (RFC 9113 §6.5.2). Numbers without a constant are
// those of extensions.
type SettingID uint16

// The settings of RFC 9113 §6.5.2, and of two other RFCs. The comments say what each setting tells
// the other side about its sender.
const (
	SettingHeaderTableSize       SettingID = 0x1 // the size of the decoder's compression table, in bytes
	SettingEnablePush            SettingID = 0x2 // 1: the client accepts server push; 0: it does not
	SettingMaxConcurrentStreams  SettingID = 0x3 // how many streams the other side may have open
	SettingInitialWindowSize     SettingID = 0x4 // the first receive window of each stream, in bytes
	SettingMaxFrameSize          SettingID = 0x5 // the largest payload of a frame, in bytes
	SettingMaxHeaderListSize     SettingID = 0x6 // the largest field section, in bytes plus 32 per field
	SettingEnableConnectProtocol SettingID = 0x8 // 1: the server takes extended CONNECT (RFC 8441)
	SettingNoRFC7540Priorities   SettingID = 0x9 // 1: RFC 7540's priorities are not used (RFC 9218)
)

// String returns the setting's name in the RFC, such as "SETTINGS_MAX_FRAME_SIZE", or
// "SETTING_0xf000" for a setting that has no constant.
func (id SettingID) String() string {
	name := wire.SettingID(id).String()
	if strings.HasPrefix(name, "SETTING_0x") {
		return name
	}
	return "SETTINGS_" + name
}

// A Setting is one entry of a SETTINGS frame.
type Setting struct {
	ID    SettingID
	Value uint32
}

// String returns the setting's name and its value, such as "SETTINGS_MAX_FRAME_SIZE=16384".
func (s Setting) String() string { return fmt.Sprintf("%v=%d", s.ID, s.Value) }

// PeerSettings holds the peer's settings. Settings that the peer has not sent have the protocol's
// initial values.
type PeerSettings struct {
	Received              bool   // the peer's first SETTINGS were received
	HeaderTableSize       uint32 // bytes
	MaxConcurrentStreams  uint32 // 2^32-1: no limit
	InitialWindowSize     uint32 // bytes
	MaxFrameSize          uint32 // bytes
	MaxHeaderListSize     uint32 // bytes, plus 32 per field; 2^32-1: no limit
	EnableConnectProtocol bool   // RFC 8441
	// The first 32 settings of extensions that are not above, in the order of their first arrival.
	Other []Setting
}

// connSettings are the settings of both sides. The connection's mu guards them.
type connSettings struct {
	peer peerSettings
	due  []sentSettings // SETTINGS of ours that the peer has not acknowledged
	sent uint32         // how many SETTINGS of ours
	// The initial window was not adjusted because of SETTINGS that are not acknowledged.
	adjustDue bool
	// Calls that wait for the peer's first SETTINGS or for an acknowledgment.
	waiting wait.Queue
}

// acked returns how many SETTINGS of ours the peer has acknowledged.
func (s *connSettings) acked() uint32 { return s.sent - uint32(len(s.due)) }

// PeerSettings returns the peer's current settings.
func (c *Conn) PeerSettings() PeerSettings {
	c.lock()
	defer c.unlock()
	return c.settings.peer.public()
}

// WaitSettings waits for the peer's first SETTINGS and returns the settings as they are then.
// Requests do not need it: they are sent at once, with at most 100 open at a time until the
// SETTINGS are received.
func (c *Conn) WaitSettings(ctx context.Context) (PeerSettings, error) {
	mustHave(ctx != nil, "Conn.WaitSettings", "context.Context")
	c.lock()
	defer c.unlock()
	c.uncorkLocked()
	err := c.waitSettingsUnlocking(ctx)
	return c.settings.peer.public(), err
}

// waitSettingsUnlocking waits for the peer's first SETTINGS.
func (c *Conn) waitSettingsUnlocking(ctx context.Context) error {
	for !c.settings.peer.known && c.ending.err == nil {
		if err := c.waitUnlocking(ctx, &c.settings.waiting); err != nil {
			return err
		}
	}
	return c.overLocked()
}

// awaitSettings waits for the peer's first SETTINGS, so that no body is sent that the peer must
// refuse because of its limits. If ctx or cancel ends the wait, awaitSettings returns the request's
// reserved slot. If the connection ends, it returns nil, and the caller's next call finds out.
func (c *Conn) awaitSettings(ctx context.Context, cancel <-chan struct{}, slot slotMode) error {
	c.lock()
	defer c.unlock()
	c.uncorkLocked()
	return c.awaitSettingsUnlocking(ctx, cancel, slot)
}

// awaitSettingsUnlocking is awaitSettings with mu held.
func (c *Conn) awaitSettingsUnlocking(ctx context.Context, cancel <-chan struct{}, slot slotMode) error {
	for !c.settings.peer.known && c.ending.err == nil {
		if err := c.waitOrCancelUnlocking(ctx, cancel, &c.settings.waiting); err != nil {
			if slot == haveSlot {
				c.slots.reserved--
				c.giveSlotLocked()
			}
			return err
		}
	}
	return nil
}

// UpdateSettings sends SETTINGS and waits until the peer has acknowledged them. Three kinds of
// settings can change on a live connection: INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, and settings of
// extensions, which hyper itself ignores. A smaller MAX_FRAME_SIZE is enforced from the
// acknowledgment on. A new INITIAL_WINDOW_SIZE moves the receive windows of all open streams,
// and their window managers get a WindowSettings event. AdaptiveWindow uses the new
// INITIAL_WINDOW_SIZE as the largest that it announces.
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
		case SettingMaxFrameSize:
			due.maxFrame = s.Value
		case SettingHeaderTableSize, SettingEnablePush, SettingMaxConcurrentStreams,
			SettingMaxHeaderListSize:
			return fmt.Errorf("hyper: %v cannot change on a live connection", s.ID)
		}
	}
	c.lock()
	defer c.unlock()
	if err := c.waitForRoomUnlocking(ctx); err != nil {
		return err
	}
	size := c.flow.initialWindow
	for _, s := range list {
		if s.ID == wire.SettingInitialWindowSize {
			size = int64(s.Value)
		}
	}
	due.shift = size - c.flow.initialWindow
	for id, s := range c.streams.byID {
		// RFC 9113 §6.9.2: a change that makes any window exceed 2^31-1 is a FLOW_CONTROL_ERROR.
		if s.window.credit+due.shift > wire.MaxWindow {
			return fmt.Errorf("hyper: SETTINGS_INITIAL_WINDOW_SIZE=%d raises the window of stream %d "+
				"above 2^31-1", size, id)
		}
	}
	c.sendSettingsLocked(due, list...)
	c.uncorkLocked()
	number := c.settings.sent
	for c.settings.acked() < number && c.ending.err == nil {
		if err := c.waitUnlocking(ctx, &c.settings.waiting); err != nil {
			return err
		}
	}
	return c.overLocked()
}

// sendSettingsLocked appends SETTINGS to out. due describes what they change.
func (c *Conn) sendSettingsLocked(due sentSettings, list ...wire.Setting) {
	c.flow.initialWindow += due.shift
	c.writer.add(wire.AppendSettings(c.writer.out, list...))
	due.below, due.belowPush = c.streams.nextID, c.streams.lastPushID
	due.sent = c.clock()
	c.raiseMaxFrameLocked(due.maxFrame)
	// The peer may use the larger window as soon as it reads the SETTINGS.
	if due.shift > 0 {
		c.shiftWindowsLocked(due)
	}
	c.settings.sent++
	c.settings.due = append(c.settings.due, due)
	if at := c.settingsByLocked(); at > 0 {
		c.armLocked(at)
	}
}

// raiseMaxFrameLocked allows frames of size bytes, which the peer may send as soon as it reads our
// SETTINGS. A smaller size applies when it has acknowledged them.
func (c *Conn) raiseMaxFrameLocked(size uint32) {
	if most := &c.reader.frames.maxSize; int32(size) > most.Load() {
		most.Store(int32(size))
	}
}

// adjustInitialWindowLocked is called before a stream is opened. It announces the initial window
// that the connection's manager chooses, if that has changed. The peer processes frames in order
// (RFC 9113 §6.5.3), so the new size applies to the stream whose HEADERS follow. It reports whether
// the manager broke a rule and ended the connection.
//
// AdaptiveWindow's InitialWindow is not called while SETTINGS are not acknowledged. net/http's
// server sends one acknowledgment for several SETTINGS that come together, and then the
// acknowledgment of a smaller window would be missing.
func (c *Conn) adjustInitialWindowLocked() (ended bool) {
	_, adaptive := c.flow.window.manager.(*adaptivePath)
	if c.settings.adjustDue = adaptive && len(c.settings.due) > 0; c.settings.adjustDue {
		return false
	}
	size, ended := c.flow.window.initialWindow(c.clock())
	if shift := min(int64(size), wire.MaxWindow) - c.flow.initialWindow; shift != 0 && !ended {
		c.shiftInitialWindowLocked(shift)
	}
	return ended
}

// shiftInitialWindowLocked announces an initial window that is larger by shift, as far as the
// windows of open streams allow that. It is a function of its own to keep the stacks of waiting
// requests small.
func (c *Conn) shiftInitialWindowLocked(shift int64) {
	const mostDue = 32 // SETTINGS that a slow peer may owe an acknowledgment for
	if len(c.settings.due) >= mostDue {
		return
	}
	if shift > 0 {
		for _, s := range c.streams.byID {
			shift = min(shift, wire.MaxWindow-s.window.credit)
		}
		if shift <= 0 {
			return
		}
	}
	c.sendSettingsLocked(sentSettings{window: true, untimed: true, shift: shift},
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: uint32(c.flow.initialWindow + shift)})
}

// sentSettings describes SETTINGS of ours that the peer has not acknowledged yet.
type sentSettings struct {
	sent   time.Duration
	window bool // they have INITIAL_WINDOW_SIZE
	// The user did not ask for them: a busy peer may acknowledge later than SettingsTimeout.
	untimed   bool
	maxFrame  uint32 // MAX_FRAME_SIZE; 0: they do not have it
	shift     int64  // how much the windows move
	below     uint32 // applies to our streams with a lower ID
	belowPush uint32 // applies to pushes up to this ID; later ones have the new size
}

// shiftWindowsLocked moves the receive windows of the streams that due applies to. A larger window
// also applies to streams that we reset: a peer that processes streams on several threads may have
// read the SETTINGS and not yet stopped the stream.
func (c *Conn) shiftWindowsLocked(due sentSettings) {
	for id, s := range c.streams.byID {
		if due.covers(id) {
			s.window.credit += due.shift
		}
	}
	for id, m := range c.slots.reset {
		if due.shift > 0 && due.covers(id) {
			m.credit += due.shift
			c.slots.reset[id] = m
		}
	}
}

// covers reports whether the change of the initial window applies to the stream.
func (due sentSettings) covers(id uint32) bool {
	if id%2 == 1 {
		return id < due.below
	}
	return id <= due.belowPush || due.shift < 0
}

// promisedWindowLocked returns the initial window of a push that is promised now. The peer may not
// know yet of a smaller initial window that it has not acknowledged. The acknowledgment will apply
// that to the push, as to all other streams.
func (c *Conn) promisedWindowLocked() int64 {
	size := c.flow.initialWindow
	for _, due := range c.settings.due {
		size -= min(due.shift, 0)
	}
	return size
}

// peerSettings are the peer's settings in the form that sending needs.
type peerSettings struct {
	known          bool
	connectAllowed bool
	tableSize      uint32
	maxStreams     uint32
	maxHeaderList  uint32
	initialWindow  int64
	maxFrame       int
	other          []Setting
}

// initialPeerSettings returns the settings that apply before the peer's first SETTINGS.
func initialPeerSettings() peerSettings {
	return peerSettings{
		tableSize:     wire.HeaderTableSize,
		maxStreams:    unlimitedSlots,
		initialWindow: wire.InitialWindow,
		maxFrame:      wire.MinMaxFrameSize,
		maxHeaderList: math.MaxUint32,
	}
}

// public returns the settings for the user.
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

// maxOtherSettings limits how many unknown settings are kept for PeerSettings.Other.
const maxOtherSettings = 32

// recvSettingsLocked processes SETTINGS: it applies and acknowledges them.
func (c *Conn) recvSettingsLocked(f *frame) error {
	if f.Flags.Has(wire.Ack) {
		return c.recvSettingsAckLocked()
	}
	for s := range wire.ParseSettings(f.payload) {
		if err := c.applyLocked(s); err != nil {
			return err
		}
	}
	if !c.settings.peer.known {
		c.settings.peer.known = true
		c.slots.limit = c.settings.peer.maxStreams
		// A request that got no slot can use another connection now.
		if c.slots.tellFree.once {
			c.reports.stateChanged = true
		}
		c.armDueLocked() // the acknowledgment of our SETTINGS has a deadline from now on
	}
	c.settings.waiting.WakeAll()
	c.admitLocked()
	// RFC 9113 §6.5.3: the acknowledgment is sent after the values have been applied. What follows
	// it in out obeys them.
	c.writer.add(wire.AppendSettingsAck(c.writer.out))
	if err := c.owedLocked(); err != nil {
		return err
	}
	return c.chargeNoiseLocked()
}

// applyLocked applies one of the peer's settings.
func (c *Conn) applyLocked(s wire.Setting) error {
	if err := s.Check(); err != nil {
		return err
	}
	switch s.ID {
	case wire.SettingHeaderTableSize:
		c.settings.peer.tableSize = s.Value
		c.writer.fields.SetTableSize(s.Value)
	case wire.SettingEnablePush:
		// RFC 9113 §6.5.2: a server MUST NOT send ENABLE_PUSH=1.
		if s.Value != 0 {
			return connErr(ErrCodeProtocol, "SETTINGS of a server with ENABLE_PUSH=1")
		}
	case wire.SettingMaxConcurrentStreams:
		c.settings.peer.maxStreams = s.Value
		c.slots.limit = s.Value
	case wire.SettingInitialWindowSize:
		return c.setInitialSendWindowLocked(int64(s.Value))
	case wire.SettingMaxFrameSize:
		c.settings.peer.maxFrame = int(s.Value)
	case wire.SettingMaxHeaderListSize:
		c.settings.peer.maxHeaderList = s.Value
	case wire.SettingEnableConnectProtocol:
		// RFC 8441 §3: a sender MUST NOT change it from 1 to 0.
		if c.settings.peer.connectAllowed && s.Value == 0 {
			return connErr(ErrCodeProtocol, "SETTINGS change ENABLE_CONNECT_PROTOCOL from 1 to 0")
		}
		c.settings.peer.connectAllowed = s.Value == 1
	default:
		c.settings.peer.setOther(Setting{SettingID(s.ID), s.Value})
	}
	return nil
}

// setOther records a setting that hyper does not know.
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

// hasOther reports whether the peer's value for a setting that hyper does not know is v.
func (p *peerSettings) hasOther(id SettingID, v uint32) bool {
	return slices.Contains(p.other, Setting{id, v})
}

// setInitialSendWindowLocked changes the send windows of all streams at once. A stream stores only
// its difference from this base. So the peer cannot make us visit all streams with each SETTINGS
// (RFC 9113 §6.9.2).
func (c *Conn) setInitialSendWindowLocked(size int64) error {
	if size+c.flow.maxDelta > wire.MaxWindow {
		// It was an upper bound. Compute it exactly, once.
		c.flow.maxDelta = 0
		for _, s := range c.streams.byID {
			c.flow.maxDelta = max(c.flow.maxDelta, s.sendDelta)
		}
		// RFC 9113 §6.9.2: a change that makes any window exceed 2^31-1 is a FLOW_CONTROL_ERROR.
		if size+c.flow.maxDelta > wire.MaxWindow {
			return connErr(ErrCodeFlowControl, "INITIAL_WINDOW_SIZE=%d raises a stream's window above 2^31-1",
				size)
		}
	}
	if size > c.settings.peer.initialWindow {
		// writeLoop checks the blocked streams, once for any number of changes.
		c.writer.unblock = true
	}
	c.settings.peer.initialWindow = size
	return nil
}

// recvSettingsAckLocked processes the acknowledgment of our oldest unacknowledged SETTINGS.
func (c *Conn) recvSettingsAckLocked() error {
	if len(c.settings.due) == 0 || c.writer.corked {
		// RFC 9113 does not say what an acknowledgment of SETTINGS means that were not sent.
		return c.chargeNoiseLocked()
	}
	due := c.settings.due[0]
	if c.settings.due = c.settings.due[1:]; len(c.settings.due) == 0 {
		c.settings.due = nil
	}
	c.reader.frames.section.TableAcknowledged()
	if due.maxFrame != 0 {
		c.reader.frames.maxSize.Store(int32(due.maxFrame))
		for _, later := range c.settings.due { // the peer may use a larger one already
			c.raiseMaxFrameLocked(later.maxFrame)
		}
	}
	if due.window {
		if due.shift < 0 {
			c.shiftWindowsLocked(due)
		}
		for id, s := range c.streams.byID {
			if due.covers(id) {
				ended := s.window.update(WindowEvent{Kind: WindowSettings, Bytes: int(due.shift)})
				if !ended && s.window.readers > 0 {
					s.window.blocked()
				}
			}
		}
	}
	if c.settings.adjustDue && len(c.settings.due) == 0 {
		c.adjustInitialWindowLocked()
	}
	c.settings.waiting.WakeAll()
	c.sampleRTTLocked(due.sent)
	return nil
}
