package hyper

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"gohyper.dev/hyper/internal/bucket"
	"gohyper.dev/hyper/internal/wait"
	"gohyper.dev/hyper/internal/wire"
)

// liveness detects a peer that is dead, that stalls, or that floods us. One timer serves all its
// deadlines. The connection's mu guards it. Times are since start.
type liveness struct {
	now     time.Duration // updated at each read of the socket
	minRTT  time.Duration // 0: not measured yet
	lastRTT time.Duration

	timer      *time.Timer
	timerAt    time.Duration // when it fires; 0: not set
	lastRecv   time.Duration // when the peer last sent anything
	progressAt time.Duration // when the peer last completed a frame or sent progressOctets of one
	// When we first wrote after the peer last sent anything, for streams that are open. 0: not yet.
	silentFrom time.Duration
	heard      uint64        // written, when the peer last sent anything
	writeSince time.Duration // when the write in progress last made progress; 0: none is
	wroteAt    time.Duration // when the last write began

	stale        bool    // suspected is set because of staleSilence, and no PING was sent yet
	afterPause   bool    // the last write began after a pause of shrinkDelay, and may be the only one
	pings        []*ping // sent and not acknowledged, in order
	pingsSent    uint64  // how many PINGs were sent
	pinging      pinging
	probedAt     time.Duration
	probedOctets uint64 // queued after the last probe: no new probe before we have sent something else

	// Acknowledgments of SETTINGS and PING that wait to be written.
	acksQueued     int32
	unfinished     int32         // bytes read since progressAt
	floodBudget    bucket.Bucket // budget for frames without content, and for interim responses
	provokedResets bucket.Bucket // budget for streams that we reset because the peer broke a rule
}

// A ping is a PING of ours that waits for its acknowledgment.
type ping struct {
	number  uint64
	sent    time.Duration
	rtt     time.Duration // 0: not acknowledged yet
	keeper  bool          // must be acknowledged within PingTimeout, or the connection ends
	slots   bool          // its acknowledgment frees slots
	due     time.Duration // for slots: when the acknowledgment is overdue; 0: it is not written yet
	end     uint64        // queued after this PING was appended
	prober  *Window       // whose manager called ProbeRTT
	waiting wait.Queue
}

// Limits of the liveness checks. A budget holds up to its burst and refills at its rate.
const (
	never         = time.Duration(math.MaxInt64)
	corkDelay     = 5 * time.Millisecond // how long the preface waits for a first request
	maxAcksQueued = 1000
	noiseBurst    = 10_000
	noiseRate     = 330 // per second
	provokedBurst = 1000
	provokedRate  = 33 // per second
	smallUpdate   = 256

	// So many bytes of an incomplete frame show that the peer is alive: 273 bytes a second with the
	// default PingTimeout.
	progressOctets = 4 << 10

	// So many bytes of discarded frames cost as much as one frame without content.
	floodOctets = 1 << 10
)

// startLivenessLocked fills the budgets and starts the timer.
func (c *Conn) startLivenessLocked() {
	c.liveness.floodBudget = bucket.New(noiseBurst, noiseBurst, noiseRate)
	c.liveness.provokedResets = bucket.New(provokedBurst, provokedBurst, provokedRate)
	c.armLocked(corkDelay)
}

// stopLivenessLocked stops the timer and wakes all callers of Ping.
func (c *Conn) stopLivenessLocked() {
	if c.liveness.timer != nil {
		c.liveness.timer.Stop()
	}
	for _, p := range c.liveness.pings {
		p.waiting.WakeAll()
	}
}

// armLocked makes the timer fire no later than at, which is a time since start.
func (c *Conn) armLocked(at time.Duration) {
	if c.liveness.timerAt != 0 && c.liveness.timerAt <= at || c.ending.err != nil {
		return
	}
	c.liveness.timerAt = at
	d := at - c.clock()
	if c.liveness.timer == nil {
		c.liveness.timer = time.AfterFunc(d, c.tick)
	} else {
		c.liveness.timer.Reset(d)
	}
}

// tick is called by the timer. It does everything that is due.
func (c *Conn) tick() {
	c.lock()
	defer c.unlock()
	if c.ending.err != nil {
		return
	}
	c.readClockLocked()
	c.liveness.timerAt = 0
	if c.writer.corked && c.liveness.now >= corkDelay {
		c.uncorkLocked()
	}
	if err := c.overdueLocked(); err != nil {
		c.failLocked(err)
		return
	}
	if c.endBlockedLocked(); c.ending.err != nil {
		return
	}
	if c.endUnclaimedLocked(); c.ending.err != nil {
		return
	}
	if c.judgeSlotPingLocked(); c.ending.err != nil {
		return
	}
	if at := c.keepAliveAtLocked(); at > 0 && c.liveness.now >= at {
		c.sendPingLocked(&ping{keeper: true})
		c.liveness.pinging.silence = min(c.liveness.pinging.silence+1, uint8(len(silences)-1))
	}
	if at := c.staleAtLocked(); at > 0 && c.liveness.now >= at {
		c.liveness.stale = true
		c.reports.suspected.Store(true)
	}
	if at := c.shrinkAtLocked(); at > 0 && c.liveness.now >= at {
		c.shrinkLocked()
	}
	if c.streams.trimAt > 0 && c.liveness.now >= c.streams.trimAt {
		c.trimLocked()
	}
	c.armDueLocked()
}

// uncorkLocked allows writeLoop to write the preface.
func (c *Conn) uncorkLocked() {
	if !c.writer.corked {
		return
	}
	c.writer.corked = false
	if len(c.settings.due) > 0 { // a first flight of the caller may have no SETTINGS
		c.settings.due[0].sent = c.clock()
	}
	c.armDueLocked()
}

// armDueLocked sets the timer for the earliest deadline.
func (c *Conn) armDueLocked() {
	for _, at := range c.deadlinesLocked() {
		if at > 0 {
			c.armLocked(at)
		}
	}
}

// deadlinesLocked returns the times when something may become due. 0 stands for a deadline that
// does not apply.
func (c *Conn) deadlinesLocked() [11]time.Duration {
	return [...]time.Duration{
		c.handshakeByLocked(), c.settingsByLocked(), c.keepAliveAtLocked(), c.pingByLocked(),
		c.writeByLocked(), c.shrinkAtLocked(), c.blockedByLocked(),
		c.unclaimedByLocked(), c.slotPingByLocked(), c.streams.trimAt, c.staleAtLocked(),
	}
}

// blockedByLocked returns the earliest time when a reader will have waited for WindowBlockedTimeout
// at a closed window. 0: no reader waits so.
func (c *Conn) blockedByLocked() time.Duration {
	if c.cfg.WindowBlockedTimeout <= 0 {
		return 0
	}
	at := c.flow.window.blockedUntil()
	for _, s := range c.streams.byID {
		if by := s.window.blockedUntil(); by > 0 && (at == 0 || by < at) {
			at = by
		}
	}
	return at
}

// endBlockedLocked ends the streams, or the connection, whose window managers grant nothing to a
// reader that waits.
func (c *Conn) endBlockedLocked() {
	for at := c.blockedByLocked(); at > 0 && c.liveness.now >= at &&
		c.ending.err == nil; at = c.blockedByLocked() {
		if by := c.flow.window.blockedUntil(); by > 0 && c.liveness.now >= by {
			c.flow.window.endBlocked()
			return
		}
		for _, s := range c.streams.byID {
			if by := s.window.blockedUntil(); by > 0 && c.liveness.now >= by {
				s.window.endBlocked()
			}
		}
	}
}

// overdueLocked returns an error if the peer has missed a deadline.
func (c *Conn) overdueLocked() error {
	due := func(at time.Duration) bool { return at > 0 && c.liveness.now >= at }
	switch {
	case due(c.handshakeByLocked()):
		return &ConnError{Err: ErrHandshakeTimeout}
	case due(c.settingsByLocked()):
		// RFC 9113 §6.5.3: if the peer does not acknowledge SETTINGS in time, the sender may end
		// the connection with SETTINGS_TIMEOUT.
		return connErr(ErrCodeSettingsTimeout, "no acknowledgment within %v", c.cfg.SettingsTimeout)
	case due(c.pingByLocked()):
		return &ConnError{Err: ErrPingTimeout}
	case due(c.writeByLocked()):
		return &ConnError{Err: ErrWriteStalled}
	}
	return nil
}

// handshakeByLocked returns when the peer's first SETTINGS are overdue; 0: never.
func (c *Conn) handshakeByLocked() time.Duration {
	if c.settings.peer.known || c.writer.corked || c.cfg.HandshakeTimeout < 0 {
		return 0
	}
	return c.settingsZeroLocked() + c.cfg.HandshakeTimeout
}

// settingsZeroLocked returns when the preface was allowed to be written.
func (c *Conn) settingsZeroLocked() time.Duration {
	if len(c.settings.due) == 0 {
		return 0
	}
	return c.settings.due[0].sent
}

// settingsByLocked returns when the acknowledgment of our SETTINGS is overdue; 0: never. The peer
// acknowledges them in order.
func (c *Conn) settingsByLocked() time.Duration {
	if c.writer.corked || !c.settings.peer.known || c.cfg.SettingsTimeout < 0 {
		return 0
	}
	for i := range c.settings.due {
		if due := &c.settings.due[i]; !due.untimed && !c.holdsBackLocked(due.sent) {
			return due.sent + c.cfg.SettingsTimeout
		}
	}
	return 0
}

// pingByLocked returns when an unacknowledged keep-alive PING means that the peer is dead; 0:
// never. Complete frames show that the peer is alive. So does enough data of a large frame, which
// can delay the acknowledgment.
func (c *Conn) pingByLocked() time.Duration {
	p := c.keeperLocked()
	if p == nil || c.cfg.PingTimeout < 0 || c.holdsBackLocked(p.sent) {
		return 0
	}
	return max(p.sent, c.liveness.progressAt) + c.cfg.PingTimeout
}

// slotPingByLocked returns when the acknowledgment of a PING for slots is overdue. If no such PING
// is sent, it returns when one may be sent, although another PING is unacknowledged. 0: neither.
func (c *Conn) slotPingByLocked() time.Duration {
	if c.ending.phase >= connMute || c.cfg.PingTimeout < 0 {
		return 0
	}
	for _, p := range c.liveness.pings {
		if p.slots {
			return p.due
		}
	}
	if len(c.liveness.pings) > 0 && c.needsAnswerLocked() {
		return c.askAgainAtLocked()
	}
	return 0
}

// judgeSlotPingLocked does what slotPingByLocked says is due. If the peer does not acknowledge
// PINGs for slots, callers would wait for a slot forever, although the peer is alive.
func (c *Conn) judgeSlotPingLocked() {
	if at := c.slotPingByLocked(); at == 0 || c.liveness.now < at {
		return
	}
	if slices.ContainsFunc(c.liveness.pings, func(p *ping) bool { return p.slots }) {
		c.muteLocked()
	} else {
		c.pingForSlotsLocked()
	}
}

// progressLocked records that the peer is alive.
func (c *Conn) progressLocked() { c.liveness.progressAt, c.liveness.unfinished = c.liveness.now, 0 }

// keeperLocked returns the first unacknowledged PING that must be acknowledged within PingTimeout,
// or nil.
func (c *Conn) keeperLocked() *ping {
	for _, p := range c.liveness.pings {
		if p.keeper {
			return p
		}
	}
	return nil
}

// minSilence is how long the peer must have been silent before the timeout of a request makes it
// suspected.
const minSilence = 100 * time.Millisecond

// suspectLocked is called when the request of s has timed out. If the peer has sent nothing since
// the request was written, the connection becomes suspected: a PING checks whether the peer is
// alive, unless it would exceed the limit of early PINGs, and a Transport prefers other connections
// until something is received.
func (c *Conn) suspectLocked(s *Stream) {
	sent := s.headersStart >= c.liveness.heard && s.headersStart < c.writer.written
	silent := c.liveness.silentFrom > 0 && c.clock()-c.liveness.silentFrom >= max(minSilence,
		2*c.liveness.minRTT)
	if !sent || !silent || c.ending.err != nil || c.cfg.KeepAlive < 0 || c.cfg.PingTimeout < 0 {
		return
	}
	c.reports.suspected.Store(true)
	if c.keeperLocked() != nil {
		return
	}
	if p := c.lastPingLocked(); p != nil && p.end > s.headersStart && (p.slots || p.prober != nil) {
		// This PING serves for the check, too.
		p.keeper = true
		c.armLocked(c.pingByLocked())
	} else if c.mayPingLocked(twoEarlyPings) {
		c.sendPingLocked(&ping{keeper: true})
	}
}

// lastPingLocked returns the last PING that is not acknowledged, or nil.
func (c *Conn) lastPingLocked() *ping {
	if len(c.liveness.pings) == 0 {
		return nil
	}
	return c.liveness.pings[len(c.liveness.pings)-1]
}

// writeByLocked returns when the write in progress has stalled for too long; 0: never.
func (c *Conn) writeByLocked() time.Duration {
	if c.liveness.writeSince == 0 || c.cfg.WriteStallTimeout < 0 {
		return 0
	}
	return c.liveness.writeSince + c.cfg.WriteStallTimeout
}

// watchWriteLocked is called before a write, so that a write that stalls is detected.
func (c *Conn) watchWriteLocked() {
	c.liveness.writeSince = max(c.clock(), 1) // 0 means none
	c.liveness.afterPause = c.liveness.writeSince-c.liveness.wroteAt >= shrinkDelay
	c.liveness.wroteAt = c.liveness.writeSince
	if c.liveness.silentFrom == 0 {
		c.liveness.silentFrom = c.liveness.wroteAt
	}
	c.requestWrittenLocked(c.liveness.wroteAt)
	if at := c.writeByLocked(); at > 0 {
		c.armLocked(at)
	}
}

// Ping sends a PING (RFC 9113 §6.7), waits for its acknowledgment, and returns the round-trip time.
// It always sends a PING. Some servers end connections that send PINGs often, so send one every few
// minutes at most. Keep-alive (Config.KeepAlive) sends PINGs by itself, and counts those of Ping.
// Ping also waits while too much data is waiting to be written.
func (c *Conn) Ping(ctx context.Context) (rtt time.Duration, err error) {
	mustHave(ctx != nil, "Conn.Ping", "context.Context")
	c.lock()
	defer c.unlock()
	if err := c.overLocked(); err != nil {
		return 0, err
	}
	if err := c.waitForRoomUnlocking(ctx); err != nil {
		return 0, err
	}
	p := &ping{}
	c.uncorkLocked()
	c.sendPingLocked(p)
	for p.rtt == 0 {
		if err := c.overLocked(); err != nil {
			return 0, err
		}
		if err := c.waitUnlocking(ctx, &p.waiting); err != nil && p.rtt == 0 {
			c.dropPingLocked(p)
			return 0, err
		}
	}
	return p.rtt, nil
}

// dropPingLocked removes a PING after its caller has stopped waiting. If callers that wait for a
// slot relied on its acknowledgment, it sends another PING for them.
func (c *Conn) dropPingLocked(p *ping) {
	if i := slices.Index(c.liveness.pings, p); i >= 0 {
		c.liveness.pings = slices.Delete(c.liveness.pings, i, i+1)
	}
	c.pingForSlotsLocked()
}

// sendPingLocked appends the PING p to out and records it in pings.
func (c *Conn) sendPingLocked(p *ping) {
	c.liveness.pingsSent++
	p.number, p.sent = c.liveness.pingsSent, c.clock()
	c.countPingLocked(p.sent)
	c.liveness.pings = append(c.liveness.pings, p)
	var data [8]byte
	binary.BigEndian.PutUint64(data[:], p.number)
	c.writer.add(wire.AppendPing(c.writer.out, 0, data))
	p.end = c.writer.queued
	if p.keeper {
		c.armLocked(p.sent + c.cfg.PingTimeout)
	}
}

// watchSlotPingLocked sets the deadlines of PINGs for slots that have been written.
func (c *Conn) watchSlotPingLocked() {
	for _, p := range c.liveness.pings {
		if p.slots && p.due == 0 && c.writer.flushed >= p.end && c.cfg.PingTimeout >= 0 {
			p.due = c.clock() + c.cfg.PingTimeout
			c.armLocked(p.due)
		}
	}
}

// askAgainAtLocked returns when a PING for slots may be sent although earlier PINGs are not
// acknowledged. It is never while one of those is for slots, which has its own deadline.
func (c *Conn) askAgainAtLocked() (at time.Duration) {
	for _, p := range c.liveness.pings {
		if p.slots || c.cfg.PingTimeout < 0 {
			return never
		}
		at = max(at, p.sent+c.cfg.PingTimeout)
	}
	return at
}

// probeRTTLocked implements Window.ProbeRTT and its budget. Servers accept only a few PINGs without
// other frames of ours between them.
func (c *Conn) probeRTTLocked(w *Window) bool {
	const burst, interval = 3, 10 * time.Second
	k := &c.liveness.pinging
	if len(c.liveness.pings) > 0 || c.ending.err != nil || k.probes > 0 &&
		c.writer.queued == c.liveness.probedOctets {
		return false
	}
	if !c.mayPingLocked(noEarlyPing) {
		return false
	}
	if k.probes >= burst && c.liveness.now-c.liveness.probedAt < interval {
		return false
	}
	k.probes = min(k.probes+1, burst)
	c.liveness.probedAt = c.liveness.now
	c.sendPingLocked(&ping{prober: w})
	c.liveness.probedOctets = c.writer.queued
	return true
}

// recvPingLocked processes a PING: it acknowledges the peer's, and matches an acknowledgment to
// ours.
func (c *Conn) recvPingLocked(f *frame) error {
	data := wire.ParsePing(f.payload)
	if !f.Flags.Has(wire.Ack) {
		c.writer.add(wire.AppendPing(c.writer.out, wire.Ack, data))
		if err := c.owedLocked(); err != nil {
			return err
		}
		return c.chargeNoiseLocked()
	}
	return c.recvPingAckLocked(binary.BigEndian.Uint64(data[:]))
}

// recvPingAckLocked processes the acknowledgment of our PING with this number.
func (c *Conn) recvPingAckLocked(number uint64) error {
	if number == c.liveness.pingsSent {
		c.liveness.pinging.ackedLocked(c.liveness.now)
	}
	i := slices.IndexFunc(c.liveness.pings, func(p *ping) bool { return p.number == number })
	if i < 0 {
		// No PING with this number was sent, or none waits for its acknowledgment.
		return c.chargeNoiseLocked()
	}
	p := c.liveness.pings[i]
	// Acknowledgments come in order. Of the earlier PINGs, only those of Conn.Ping still wait.
	earlier := slices.DeleteFunc(c.liveness.pings[:i], func(p *ping) bool {
		return p.keeper || p.slots || p.prober != nil
	})
	c.liveness.pings = slices.Delete(c.liveness.pings, len(earlier), i+1)
	p.rtt = c.sampleRTTLocked(p.sent)
	p.waiting.WakeAll()
	c.slots.confirm(number)
	c.trimLaterLocked()
	c.admitLocked()
	if p.prober != nil && p.prober.s != nil {
		p.prober.update(WindowEvent{Kind: WindowRTT, RTT: p.rtt})
	}
	return nil
}

// sampleRTTLocked records a round trip that began at sent, and returns its time. The result is
// above 0 even if the peer guessed the contents of a PING: now is when its bytes were read, which
// may be before we sent.
func (c *Conn) sampleRTTLocked(sent time.Duration) (rtt time.Duration) {
	rtt = max(c.liveness.now-sent, 1)
	if c.liveness.minRTT == 0 || rtt < c.liveness.minRTT {
		c.liveness.minRTT = rtt
	}
	c.liveness.lastRTT = rtt
	c.flow.window.update(WindowEvent{Kind: WindowRTT, RTT: rtt})
	return rtt
}

// owedLocked counts an acknowledgment that waits to be written. It returns an error above the
// limit: a peer that sends frames and does not read our acknowledgments must not make our memory
// grow.
func (c *Conn) owedLocked() error {
	if c.liveness.acksQueued++; c.liveness.acksQueued > maxAcksQueued {
		return connErr(ErrCodeEnhanceYourCalm, "%d acknowledgments owed at once", c.liveness.acksQueued)
	}
	return nil
}

// chargeNoiseLocked charges the budget for a frame without content. It returns an error when the
// budget is used up.
func (c *Conn) chargeNoiseLocked() error {
	if !c.liveness.floodBudget.Take(c.liveness.now, 1) {
		return connErr(ErrCodeEnhanceYourCalm, "too many frames that carry nothing")
	}
	return nil
}

// chargeInterimLocked counts an interim response. Above freeInterims, each is charged to the budget
// for frames without content. That budget allows one every few milliseconds forever, for example to
// report the progress of an upload.
func (s *Stream) chargeInterimLocked() error {
	i := &s.extrasLocked().interims
	if i.count++; i.count > freeInterims && !s.c.liveness.floodBudget.Take(s.c.liveness.now, 1) {
		return connErr(ErrCodeEnhanceYourCalm, "too many interim responses on stream %d", s.id)
	}
	return nil
}

// chargeFloodLocked charges the budget for a frame that is discarded. It costs as much as one frame
// without content, and as much again for each floodOctets bytes, so that the total of discarded
// bytes is limited, too.
func (c *Conn) chargeFloodLocked(octets int64) error {
	if !c.liveness.floodBudget.Take(c.liveness.now, int(1+min(octets/floodOctets, noiseBurst))) {
		return connErr(ErrCodeEnhanceYourCalm, "too many bytes that are discarded")
	}
	return nil
}

// countTinyUpdateLocked charges the budget for a WINDOW_UPDATE with a small increment.
func (c *Conn) countTinyUpdateLocked(increment int64) error {
	if increment >= smallUpdate {
		return nil
	}
	return c.chargeNoiseLocked()
}

// creditFloodLocked refills the budget for frames without content after useful data of this many
// bytes.
func (c *Conn) creditFloodLocked(octets int) { c.liveness.floodBudget.Add(1 + octets/64) }

// countProvokedResetLocked charges the budget for a stream that we reset because the peer broke a
// rule. It returns an error when the budget is used up.
func (c *Conn) countProvokedResetLocked() error {
	if !c.liveness.provokedResets.Take(c.liveness.now, 1) {
		return connErr(ErrCodeEnhanceYourCalm, "too many streams that had to be reset")
	}
	return nil
}
