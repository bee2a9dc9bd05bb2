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

// liveness is how a connection finds out that its peer is dead, stalled, or a nuisance. One timer serves all its
// deadlines. It is guarded by the connection's mu.
type liveness struct {
	timer      *time.Timer
	timerAt    time.Duration // when it fires, 0: not set
	lastRecv   time.Duration // when the peer last sent anything
	progressAt time.Duration // when it last ended a frame, or had sent progressOctets of one
	silentFrom time.Duration // when we wrote first since then, for streams that are open; 0: not yet
	heard      uint64        // octets written by us when the peer last sent anything
	writeSince time.Duration // since when the write in progress has made none, 0: none is in progress
	wroteAt    time.Duration // when the last write began

	pings        []*ping // sent and not answered, in order
	pingsSent    uint64  // their number
	pinging      pinging
	probedAt     time.Duration
	probedOctets uint64 // c.queued then: without traffic of ours since, no probe

	settingsSent, settingsAcked uint64

	acksQueued int32         // acknowledgments of SETTINGS and PING that the peer has not accepted
	unfinished int32         // octets read since progressAt
	noise      bucket.Bucket // frames that carry nothing, and interim responses
	provoked   bucket.Bucket // streams that we reset because the peer broke a rule
}

// A ping is a PING of ours that waits for its answer.
type ping struct {
	number   uint64
	sent     time.Duration
	rtt      time.Duration
	answered bool
	keeper   bool          // its answer is due within PingTimeout
	slots    bool          // its answer frees slots
	due      time.Duration // of slots: when the answer is overdue, 0: it is not written yet
	end      uint64        // c.queued behind it
	prober   *Window       // whose manager asked
	waiting  wait.Queue
}

const (
	never         = time.Duration(math.MaxInt64)
	corkDelay     = 5 * time.Millisecond // the preface waits so long for a first request
	maxAcksQueued = 1000
	noiseBurst    = 10_000
	noiseRate     = 330 // a second
	provokedBurst = 1000
	provokedRate  = 33 // a second
	smallUpdate   = 256

	progressOctets = 4 << 10 // of an unfinished frame show that the peer lives: 273 a second with the default PingTimeout

	floodOctets = 1 << 10 // of what is discarded cost as much as a frame that carries nothing
)

func (c *Conn) startLivenessLocked() {
	c.noise = bucket.New(noiseBurst, noiseBurst, noiseRate)
	c.provoked = bucket.New(provokedBurst, provokedBurst, provokedRate)
	c.armLocked(corkDelay)
}

func (c *Conn) stopLivenessLocked() {
	if c.timer != nil {
		c.timer.Stop()
	}
	for _, p := range c.pings {
		p.waiting.WakeAll()
	}
}

// armLocked makes the timer fire at the latest at that time since start.
func (c *Conn) armLocked(at time.Duration) {
	if c.timerAt != 0 && c.timerAt <= at || c.err != nil || c.lab != nil { // a simulation has no real time
		return
	}
	c.timerAt = at
	d := at - time.Since(c.start)
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.tick)
	} else {
		c.timer.Reset(d)
	}
}

// tick does what is due.
func (c *Conn) tick() {
	c.mu.Lock()
	defer c.unlock()
	if c.err != nil {
		return
	}
	c.readClockLocked()
	c.timerAt = 0
	if c.corked && c.now >= corkDelay {
		c.uncorkLocked()
	}
	if err := c.overdueLocked(); err != nil {
		c.failLocked(err)
		return
	}
	if c.endStalledLocked(); c.err != nil {
		return
	}
	if c.endUnclaimedLocked(); c.err != nil {
		return
	}
	if c.judgeSlotPingLocked(); c.err != nil {
		return
	}
	if at := c.keepAliveAtLocked(); at > 0 && c.now >= at {
		c.sendPingLocked(&ping{keeper: true})
		c.pinging.silence = min(c.pinging.silence+1, uint8(len(silences)-1))
	}
	if at := c.staleAtLocked(); at > 0 && c.now >= at {
		c.pinging.stale = true
		c.suspected.Store(true)
	}
	if at := c.shrinkAtLocked(); at > 0 && c.now >= at {
		c.shrinkLocked()
	}
	if c.trimAt > 0 && c.now >= c.trimAt {
		c.trimLocked()
	}
	c.armDueLocked()
}

// uncorkLocked lets the preface go.
func (c *Conn) uncorkLocked() {
	if !c.corked {
		return
	}
	c.corked = false
	c.settingsDue[0].sent = c.clock()
	c.armDueLocked()
}

// armDueLocked makes the timer fire when the first thing may become due.
func (c *Conn) armDueLocked() {
	for _, at := range c.deadlinesLocked() {
		if at > 0 {
			c.armLocked(at)
		}
	}
}

// deadlinesLocked lists when something may become due, 0 where nothing can.
func (c *Conn) deadlinesLocked() [11]time.Duration {
	return [...]time.Duration{
		c.handshakeByLocked(), c.settingsByLocked(), c.keepAliveAtLocked(), c.pingByLocked(), c.writeByLocked(), c.shrinkAtLocked(), c.stallByLocked(),
		c.unclaimedByLocked(), c.slotPingByLocked(), c.trimAt, c.staleAtLocked(),
	}
}

// stallByLocked is when the first of the readers who wait in vain has waited too long.
func (c *Conn) stallByLocked() time.Duration {
	if c.cfg.WindowStallTimeout <= 0 {
		return 0
	}
	at := c.window.stalledAt()
	for _, s := range c.streams {
		if by := s.window.stalledAt(); by > 0 && (at == 0 || by < at) {
			at = by
		}
	}
	return at
}

// endStalledLocked ends those whose window managers grant nothing to a reader who waits.
func (c *Conn) endStalledLocked() {
	for at := c.stallByLocked(); at > 0 && c.now >= at && c.err == nil; at = c.stallByLocked() {
		if by := c.window.stalledAt(); by > 0 && c.now >= by {
			c.window.stall()
			return
		}
		for _, s := range c.streams {
			if by := s.window.stalledAt(); by > 0 && c.now >= by {
				s.window.stall()
			}
		}
	}
}

// overdueLocked says which deadline the peer has missed.
func (c *Conn) overdueLocked() error {
	due := func(at time.Duration) bool { return at > 0 && c.now >= at }
	switch {
	case due(c.handshakeByLocked()):
		return &ConnError{Err: ErrHandshakeTimeout}
	case due(c.settingsByLocked()):
		// RFC 9113 §6.5.3: a peer that does not acknowledge in time may be left with SETTINGS_TIMEOUT.
		return connErr(SettingsTimeout, "no acknowledgment within %v", c.cfg.SettingsTimeout)
	case due(c.pingByLocked()):
		return &ConnError{Err: ErrPingTimeout}
	case due(c.writeByLocked()):
		return &ConnError{Err: ErrWriteStalled}
	}
	return nil
}

func (c *Conn) handshakeByLocked() time.Duration {
	if c.peer.known || c.corked || c.cfg.HandshakeTimeout < 0 {
		return 0
	}
	return c.settingsZeroLocked() + c.cfg.HandshakeTimeout
}

// settingsZeroLocked is when the preface went out.
func (c *Conn) settingsZeroLocked() time.Duration {
	if len(c.settingsDue) == 0 {
		return 0
	}
	return c.settingsDue[0].sent
}

// settingsByLocked is when the peer must have acknowledged our SETTINGS, which it does in order.
func (c *Conn) settingsByLocked() time.Duration {
	if c.corked || !c.peer.known || c.cfg.SettingsTimeout < 0 {
		return 0
	}
	for i := range c.settingsDue {
		if due := &c.settingsDue[i]; !due.untimed {
			return due.sent + c.cfg.SettingsTimeout
		}
	}
	return 0
}

// pingByLocked is when an unanswered question means that the peer is dead. Whole frames show that
// it is not, and so do many octets of a large one, behind which the answer may be stuck.
func (c *Conn) pingByLocked() time.Duration {
	p := c.keeperLocked()
	if p == nil || c.cfg.PingTimeout < 0 {
		return 0
	}
	return max(p.sent, c.progressAt) + c.cfg.PingTimeout
}

// slotPingByLocked is when the answer to a PING for slots is overdue, or when one may be sent
// though another was not answered; 0: neither.
func (c *Conn) slotPingByLocked() time.Duration {
	if c.mute || c.cfg.PingTimeout < 0 {
		return 0
	}
	for _, p := range c.pings {
		if p.slots {
			return p.due
		}
	}
	if len(c.pings) > 0 && c.needsAnswerLocked() {
		return c.askAgainAtLocked()
	}
	return 0
}

// judgeSlotPingLocked does what is due then. A peer that does not answer would keep the callers
// that wait for a slot for ever, though it lives.
func (c *Conn) judgeSlotPingLocked() {
	if at := c.slotPingByLocked(); at == 0 || c.now < at {
		return
	}
	if slices.ContainsFunc(c.pings, func(p *ping) bool { return p.slots }) {
		c.muteLocked()
	} else {
		c.pingForSlotsLocked()
	}
}

// progressLocked: the peer has shown that it lives.
func (c *Conn) progressLocked() { c.progressAt, c.unfinished = c.now, 0 }

func (c *Conn) keeperLocked() *ping {
	for _, p := range c.pings {
		if p.keeper {
			return p
		}
	}
	return nil
}

// minSilence is how long a peer may be silent before the timeout of a request says something about
// it.
const minSilence = 100 * time.Millisecond

// suspectLocked is called when the request of s has timed out. If the peer has sent nothing since it
// was written, a PING asks at once whether the peer lives, if that is not one too many, and a
// Transport prefers other connections until something comes.
func (c *Conn) suspectLocked(s *Stream) {
	sent := s.headersStart >= c.heard && s.headersStart < c.written
	silent := c.silentFrom > 0 && c.clock()-c.silentFrom >= max(minSilence, 2*c.minRTT)
	if !sent || !silent || c.err != nil || c.cfg.KeepAlive < 0 || c.cfg.PingTimeout < 0 {
		return
	}
	c.suspected.Store(true)
	if c.keeperLocked() != nil {
		return
	}
	if p := c.lastPingLocked(); p != nil && p.end > s.headersStart && (p.slots || p.prober != nil) {
		p.keeper = true // it serves as well
		c.armLocked(c.pingByLocked())
	} else if c.mayPingLocked(twoEarlyPings) {
		c.sendPingLocked(&ping{keeper: true})
	}
}

func (c *Conn) lastPingLocked() *ping {
	if len(c.pings) == 0 {
		return nil
	}
	return c.pings[len(c.pings)-1]
}

func (c *Conn) writeByLocked() time.Duration {
	if c.writeSince == 0 || c.cfg.WriteStallTimeout < 0 {
		return 0
	}
	return c.writeSince + c.cfg.WriteStallTimeout
}

// watchWriteLocked begins to watch a write.
func (c *Conn) watchWriteLocked() {
	c.writeSince = max(time.Since(c.start), 1) // 0 is none
	c.wroteAt = c.writeSince
	if c.silentFrom == 0 {
		c.silentFrom = c.wroteAt
	}
	c.requestWrittenLocked(c.wroteAt)
	if at := c.writeByLocked(); at > 0 {
		c.armLocked(at)
	}
}

// Ping measures a round trip: it sends a PING (RFC 9113 §6.7) and waits for the answer. Servers are known to end
// connections that ping often; every few minutes is polite, and Config.KeepAlive pings by itself.
// Ping always sends one, and Config.KeepAlive counts it.
func (c *Conn) Ping(ctx context.Context) (rtt time.Duration, err error) {
	mustHave(ctx != nil, "Conn.Ping", "context.Context")
	c.mu.Lock()
	defer c.unlock()
	if err := c.overLocked(); err != nil {
		return 0, err
	}
	if err := c.waitForRoomLocked(ctx); err != nil {
		return 0, err
	}
	p := &ping{}
	c.uncorkLocked()
	c.sendPingLocked(p)
	for !p.answered {
		if err := c.overLocked(); err != nil {
			return 0, err
		}
		if err := c.waitLocked(ctx, &p.waiting); err != nil && !p.answered {
			c.dropPingLocked(p)
			return 0, err
		}
	}
	return p.rtt, nil
}

// dropPingLocked forgets a PING whose answer is not waited for any more. Callers that wait for a
// slot may have counted on it: they get a PING of their own.
func (c *Conn) dropPingLocked(p *ping) {
	if i := slices.Index(c.pings, p); i >= 0 {
		c.pings = slices.Delete(c.pings, i, i+1)
	}
	c.pingForSlotsLocked()
}

func (c *Conn) sendPingLocked(p *ping) {
	c.pingsSent++
	p.number, p.sent = c.pingsSent, c.clock()
	c.countPingLocked(p.sent)
	c.pings = append(c.pings, p)
	var data [8]byte
	binary.BigEndian.PutUint64(data[:], p.number)
	c.append(wire.AppendPing(c.out, 0, data))
	p.end = c.queued
	if p.keeper {
		c.armLocked(p.sent + c.cfg.PingTimeout)
	}
}

// watchSlotPingLocked begins to wait for the answer to a PING for slots, once it is written.
func (c *Conn) watchSlotPingLocked() {
	for _, p := range c.pings {
		if p.slots && p.due == 0 && c.flushed >= p.end && c.cfg.PingTimeout >= 0 {
			p.due = c.clock() + c.cfg.PingTimeout
			c.armLocked(p.due)
		}
	}
}

// askAgainAtLocked is when a PING for slots may follow those that are not answered. One for slots
// has its own end.
func (c *Conn) askAgainAtLocked() (at time.Duration) {
	for _, p := range c.pings {
		if p.slots || c.cfg.PingTimeout < 0 {
			return never
		}
		at = max(at, p.sent+c.cfg.PingTimeout)
	}
	return at
}

// probeRTTLocked is ProbeRTT's budget. Servers allow a few PINGs without traffic of ours between them.
func (c *Conn) probeRTTLocked(w *Window) bool {
	const burst, interval = 3, 10 * time.Second
	k := &c.pinging
	if len(c.pings) > 0 || c.err != nil || k.probes > 0 && c.queued == c.probedOctets {
		return false
	}
	if !c.mayPingLocked(noEarlyPing) {
		return false
	}
	if k.probes >= burst && c.now-c.probedAt < interval {
		return false
	}
	k.probes = min(k.probes+1, burst)
	c.probedAt = c.now
	c.sendPingLocked(&ping{prober: w})
	c.probedOctets = c.queued
	return true
}

func (c *Conn) recvPingLocked(f *frame) error {
	data := wire.ParsePing(f.payload)
	if !f.Flags.Has(wire.Ack) {
		c.append(wire.AppendPing(c.out, wire.Ack, data))
		if err := c.owedLocked(); err != nil {
			return err
		}
		return c.noiseLocked()
	}
	return c.recvPingAckLocked(binary.BigEndian.Uint64(data[:]))
}

// recvPingAckLocked takes the answer to PING number.
func (c *Conn) recvPingAckLocked(number uint64) error {
	if number == c.pingsSent {
		c.pinging.ackedLocked(c.now)
	}
	i := slices.IndexFunc(c.pings, func(p *ping) bool { return p.number == number })
	if i < 0 {
		return c.noiseLocked() // an answer to nothing we asked, or that is not waited for any more
	}
	p := c.pings[i]
	// Answers come in order. Of earlier PINGs only a caller's is still waited for.
	earlier := slices.DeleteFunc(c.pings[:i], func(p *ping) bool { return p.keeper || p.slots || p.prober != nil })
	c.pings = slices.Delete(c.pings, len(earlier), i+1)
	p.answered, p.rtt = true, c.sampleRTTLocked(p.sent)
	p.waiting.WakeAll()
	c.slots.confirm(number)
	c.trimLaterLocked()
	c.admitLocked()
	if p.prober != nil && p.prober.s != nil {
		p.prober.update(WindowEvent{Kind: WindowRTT, RTT: p.rtt})
	}
	return nil
}

// sampleRTTLocked takes a measured round trip and returns it. It is above 0, even if the peer has guessed the question: now is when its
// octets came, which was before we asked.
func (c *Conn) sampleRTTLocked(sent time.Duration) (rtt time.Duration) {
	rtt = max(c.now-sent, 1)
	if c.minRTT == 0 || rtt < c.minRTT {
		c.minRTT = rtt
	}
	c.lastRTT = rtt
	c.window.update(WindowEvent{Kind: WindowRTT, RTT: rtt})
	return rtt
}

// owedLocked counts an acknowledgment that waits to be written. A peer that asks and does not read must not grow our memory.
func (c *Conn) owedLocked() error {
	if c.acksQueued++; c.acksQueued > maxAcksQueued {
		return connErr(EnhanceYourCalm, "%d acknowledgments owed at once", c.acksQueued)
	}
	return nil
}

// noiseLocked counts a frame that carries nothing for anybody: there is a budget for those.
func (c *Conn) noiseLocked() error {
	if !c.noise.Take(c.now, 1) {
		return connErr(EnhanceYourCalm, "too many frames that carry nothing")
	}
	return nil
}

// chargeInterimLocked counts an interim response. Beyond a few, the budget is that of frames that
// carry nothing: one every few milliseconds may go on for ever, as in an upload whose progress they
// tell.
func (s *Stream) chargeInterimLocked() error {
	i := &s.extrasLocked().interims
	if i.count++; i.count > freeInterims && !s.c.noise.Take(s.c.now, 1) {
		return connErr(EnhanceYourCalm, "too many interim responses on stream %d", s.id)
	}
	return nil
}

// chargeFloodLocked counts a frame whose octets are discarded. It costs as much as one that carries
// nothing, and once more for each floodOctets, so that all of them together are bounded in octets,
// too.
func (c *Conn) chargeFloodLocked(octets int64) error {
	if !c.noise.Take(c.now, int(1+min(octets/floodOctets, noiseBurst))) {
		return connErr(EnhanceYourCalm, "too many octets that are discarded")
	}
	return nil
}

// judgeUpdateLocked counts a WINDOW_UPDATE too small to be worth its frame.
func (c *Conn) judgeUpdateLocked(increment int64) error {
	if increment >= smallUpdate {
		return nil
	}
	return c.noiseLocked()
}

// usefulLocked lets octets that carry something earn frames that do not.
func (c *Conn) usefulLocked(octets int) { c.noise.Add(1 + octets/64) }

// provokedLocked counts a stream that the peer made us reset.
func (c *Conn) provokedLocked() error {
	if !c.provoked.Take(c.now, 1) {
		return connErr(EnhanceYourCalm, "too many streams that had to be reset")
	}
	return nil
}
