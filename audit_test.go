// This file holds the auditor, which checks the state of a connection while nothing runs.

package hyper

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/bucket"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// An auditor checks a connection's state for consistency, and against what the peer saw. It looks
// while every goroutine of the bubble is blocked, so that no operation is half done.
type auditor struct {
	t              *testing.T
	conn           *Conn
	peer           *h2test.Peer
	client, server *h2test.Conn

	streams  map[uint32]*Stream // all streams so far
	nextID   uint32
	lastPush uint32
	allowed  map[uint32]int64 // window that the peer has granted
	inbox    peerInbox
	sent     map[uint32]int64 // bytes of DATA from the client
}

// A peerInbox receives the client's frames from the peer as they arrive.
type peerInbox struct {
	mu     sync.Mutex
	frames []h2test.Frame
}

func (in *peerInbox) fill(peer *h2test.Peer) {
	for {
		start := time.Now()
		f, err := peer.Next()
		switch {
		case err == nil:
			in.mu.Lock()
			in.frames = append(in.frames, f)
			in.mu.Unlock()
		case time.Since(start) == 0: // an end is reported at once; a timeout takes time
			return
		}
	}
}

func (in *peerInbox) take() (frames []h2test.Frame) {
	in.mu.Lock()
	defer in.mu.Unlock()
	frames, in.frames = in.frames, nil
	return frames
}

func newAuditor(t *testing.T, cfg *Config) *auditor {
	client, server := h2test.Pipe()
	a := &auditor{t: t, client: client, server: server, nextID: 1,
		streams: map[uint32]*Stream{}, allowed: map[uint32]int64{}, sent: map[uint32]int64{}}
	a.peer = h2test.NewPeer(t, server)
	conn, err := NewConn(context.Background(), client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.conn = conn
	go a.inbox.fill(a.peer)
	return a
}

// grant sends the peer's WINDOW_UPDATE.
func (a *auditor) grant(id uint32, n int) {
	a.allowed[id] += int64(n)
	a.peer.WriteWindowUpdate(id, n)
}

// take returns the frames that the client has sent since the last call.
func (a *auditor) take() []h2test.Frame {
	frames := a.inbox.take()
	for _, f := range frames {
		if f.Type == wire.Data {
			a.sent[0] += int64(f.Length)
			a.sent[f.StreamID] += int64(f.Length)
		}
	}
	return frames
}

// audit waits until all goroutines block, checks the state, and returns the frames that the client
// has sent since the last call.
func (a *auditor) audit(step string) []h2test.Frame {
	a.t.Helper()
	synctest.Wait()
	frames := a.take()
	c := a.conn
	c.lock()
	defer c.unlock()
	failed := false
	wrong := func(format string, args ...any) {
		a.t.Helper()
		failed = true
		a.t.Errorf("after "+step+": "+format, args...)
	}
	a.auditStreamsLocked(wrong)
	if c.ending.err != nil {
		a.auditEndLocked(wrong)
	} else {
		a.auditSlotsLocked(wrong)
		a.auditQueuesLocked(wrong)
		a.auditWindowsLocked(wrong)
	}
	if failed {
		a.t.Fatalf("the last frames:\n%s", a.peer.Log())
	}
	for id, s := range a.streams { // streams that are over need not be checked again
		if c.streams.byID[id] == nil && s.window.unread == 0 && (s.push == nil || s.push.settled) {
			delete(a.streams, id)
		}
	}
	return frames
}

func (a *auditor) auditStreamsLocked(wrong func(string, ...any)) {
	c := a.conn
	if c.streams.nextID%2 != 1 || c.streams.nextID < a.nextID || c.streams.lastPushID%2 != 0 ||
		c.streams.lastPushID < a.lastPush {
		wrong("identifiers go back: next %d, last push %d", c.streams.nextID, c.streams.lastPushID)
	}
	a.nextID, a.lastPush = c.streams.nextID, c.streams.lastPushID
	for id, s := range a.streams {
		if s.id != id { // a Caller uses its memory again
			delete(a.streams, id)
		}
	}
	for _, s := range a.streams { // a push may have come and gone since the last audit
		for _, p := range promisesOf(s) {
			a.streams[p.s.id] = p.s
		}
	}
	for id, s := range c.streams.byID {
		a.streams[id] = s
		for _, p := range promisesOf(s) {
			a.streams[p.s.id] = p.s
		}
		switch {
		case s.id != id || c.isIdleLocked(id) || (s.push == nil) != (id%2 == 1):
			wrong("stream %d is filed under %d", s.id, id)
		case s.state == state.Idle || s.state == state.Closed || s.isOver():
			wrong("stream %d is there and %v", id, s.state)
		case s.state.CanRecv() != (s.recvErr == nil):
			wrong("stream %d is %v and its reader gets %v", id, s.state, s.recvErr)
		case s.state.CanSend() != (s.sendErr == nil):
			wrong("stream %d is %v and its writer gets %v", id, s.state, s.sendErr)
		}
	}
	for id, s := range a.streams {
		if c.streams.byID[id] != nil {
			continue
		}
		snd := s.sender
		switch {
		case s.state != state.Closed:
			wrong("stream %d is gone and %v", id, s.state)
		case s.recvErr == nil || s.sendErr == nil:
			wrong("stream %d is gone; its reader gets %v, its writer %v", id, s.recvErr, s.sendErr)
		case !s.recvQ.Empty() || !snd.sent.Empty() || !snd.turn.Empty():
			wrong("a call waits on stream %d, which is gone", id)
		case snd.in != nil || s.stop != nil && s.stop():
			wrong("stream %d is gone and still queued or watched", id)
		case s.isOver() && (!s.readLocked() || s.extras.promised()):
			wrong("stream %d was over too early", id)
		case s.isDropped() && s.buf.Len() > 0:
			wrong("stream %d was dropped and holds %d octets", id, s.buf.Len())
		}
	}
}

func (a *auditor) auditEndLocked(wrong func(string, ...any)) {
	c := a.conn
	if len(c.streams.byID) > 0 || !c.writer.ready.empty() || c.writer.blocked.head != nil {
		wrong("the connection has ended with %d streams, or some in queues", len(c.streams.byID))
	}
	if !c.slots.waiting.Empty() || !c.settings.waiting.Empty() {
		wrong("the connection has ended and a call waits")
	}
	for _, p := range c.liveness.pings {
		if !p.waiting.Empty() {
			wrong("the connection has ended and a call waits for PING %d", p.number)
		}
	}
}

func (a *auditor) auditSlotsLocked(wrong func(string, ...any)) {
	c := a.conn
	used, pushes := 0, 0
	for _, m := range c.slots.reset {
		if m.held {
			used++
		}
		if m.ping > c.liveness.pingsSent {
			wrong("a mark of PING %d, of %d sent", m.ping, c.liveness.pingsSent)
		}
	}
	for id, s := range a.streams {
		_, open := c.streams.byID[id]
		if open && s.push == nil {
			used++
		}
		if p := s.push; p != nil {
			if p.settled != (!open && (p.claimed || s.isDropped())) {
				wrong("push %d: settled %v, open %v, claimed %v, dropped %v", id, p.settled, open, p.claimed,
					s.isDropped())
			}
			if !p.settled {
				pushes++
			}
		}
		if open && c.slots.isReset(id) {
			wrong("stream %d is open and marked as reset", id)
		}
	}
	if c.slots.used != used {
		wrong("%d slots are used, %d booked", used, c.slots.used)
	}
	if c.streams.pushes != pushes || c.cfg.Push != nil && pushes > c.cfg.Push.Max {
		wrong("%d pushes are there, %d booked", pushes, c.streams.pushes)
	}
	if !c.slots.waiting.Empty() && c.slotFreeLocked() && c.slots.grants < maxGrants {
		wrong("a slot is free and a call waits for it")
	}
	if !c.slots.waiting.Empty() && c.slots.held > 0 && len(c.liveness.pings) == 0 {
		wrong("a call waits for a slot that is held, and no PING was sent for it")
	}
	for i, p := range c.liveness.pings {
		if p.rtt != 0 || p.number > c.liveness.pingsSent || i > 0 &&
			p.number <= c.liveness.pings[i-1].number {
			wrong("PING %d is out of order", p.number)
		}
	}
	for name, b := range map[string]bucket.Bucket{"noise": c.liveness.floodBudget,
		"provoked": c.liveness.provokedResets} {
		if b.Left() < 0 || b.Left() > b.Most() {
			wrong("the budget of %s is %d", name, b.Left())
		}
	}
	if c.liveness.acksQueued > maxAcksQueued || c.ending.goAway != nil && len(c.streams.byID) == 0 {
		wrong("%d acknowledgments are queued; GOAWAY %v with %d streams", c.liveness.acksQueued,
			c.ending.goAway,
			len(c.streams.byID))
	}
}

func (a *auditor) auditQueuesLocked(wrong func(string, ...any)) {
	c := a.conn
	if len(c.reader.wakeups) > 0 {
		wrong("%d streams are to be woken, and are not", len(c.reader.wakeups))
	}
	if len(c.writer.out) > outSize+maxDataFrame+64<<10 {
		wrong("%d octets wait to be written", len(c.writer.out))
	}
	queued := 0
	queues := []*sendQueue{&c.writer.ready.sendQueue, &c.writer.blocked}
	if ranked := c.writer.ready.ranked; ranked != nil {
		for urgency := range ranked {
			r := &ranked[urgency]
			queues = append(queues, &r.turns)
			for i, s := range r.later {
				queued++
				if s.sender.in != &inHeap || int(s.sender.at) != i || s.id < r.later[0].id ||
					s.sender.priority.urgency() != urgency || r.first != nil && r.first.id > s.id {
					wrong("stream %d is not where it is sent in order", s.id)
				}
			}
			if r.first != nil && r.first.sender.in != c.writer.ready.turns(urgency) {
				wrong("stream %d is the first and takes no turns", r.first.id)
			}
		}
	}
	for _, q := range queues {
		var prev *Stream
		for s := q.head; s != nil; prev, s = s, s.sender.next {
			queued++
			snd := s.sender
			if snd.in != q || prev != nil && snd.prev != prev || c.streams.byID[s.id] != s ||
				len(snd.pending) == 0 || snd.held || s.sendErr != nil {
				wrong("stream %d is queued and has no reason, or is badly linked", s.id)
			}
			if window := c.settings.peer.initialWindow + s.sendDelta; q == &c.writer.blocked && window > 0 &&
				!c.writer.unblock {
				wrong("stream %d is blocked with a window of %d", s.id, window)
			}
		}
		if prev != nil && q.head.sender.prev != prev {
			wrong("a queue does not end with its last stream")
		}
	}
	for id, s := range c.streams.byID {
		snd := s.sender
		if snd.in != nil {
			queued--
		} else if len(snd.pending) > 0 && !snd.held {
			wrong("stream %d has %d octets to send and is in no queue", id, len(snd.pending))
		}
		if !snd.sent.Empty() && len(snd.pending) == 0 {
			wrong("a call waits for bytes of stream %d that are sent", id)
		}
		if !snd.turn.Empty() && !snd.busy && !snd.held {
			wrong("a call waits for a turn on stream %d that is free", id)
		}
		if s.sendDelta > c.flow.maxDelta {
			wrong("stream %d was granted %d, the most is %d", id, s.sendDelta, c.flow.maxDelta)
		}
	}
	if queued != 0 {
		wrong("%d streams are queued without being open", queued)
	}
	if c.writer.state.Load() != writerRunning && c.hasWorkLocked() {
		wrong("there is work and the writer rests")
	}
}

func (a *auditor) auditWindowsLocked(wrong func(string, ...any)) {
	c := a.conn
	var unread int64
	for id, s := range a.streams {
		unread += s.window.unread
		held := int64(s.buf.Len())
		if c.reader.frames.left > 0 && c.reader.frames.data.StreamID == id && c.streams.byID[id] != nil {
			held += int64(c.reader.frames.left) // counted as a whole, but not all received
		}
		if s.window.unread != held {
			wrong("stream %d holds %d octets and books %d", id, held, s.window.unread)
		}
	}
	if c.flow.window.unread != unread {
		wrong("the streams hold %d octets, the connection books %d", unread, c.flow.window.unread)
	}
	heard := a.server.OctetsWritten() == a.client.OctetsRead() && c.reader.frames.r == c.reader.frames.w
	told := c.writer.state.Load() != writerRunning && !c.writer.corked &&
		a.client.OctetsWritten() == a.server.OctetsRead()
	if told {
		if got := int64(a.peer.Credit(0)); heard && got != c.flow.window.credit ||
			c.flow.window.pending != 0 {
			wrong("the peer's credit is %d, ours for it %d, %d of it pending", got, c.flow.window.credit,
				c.flow.window.pending)
		}
		if want := wire.InitialWindow + a.allowed[0] - a.sent[0]; heard && want != c.flow.sendWindow {
			wrong("the connection's send window is %d, want %d", c.flow.sendWindow, want)
		}
		if c.writer.ready.head != nil && c.flow.sendWindow > 0 {
			wrong("stream %d is ready and does not send", c.writer.ready.head.id)
		}
	}
	for id, s := range c.streams.byID {
		if !told || !heard {
			break
		}
		if got := int64(a.peer.Credit(id)); s.state.CanRecv() && len(c.settings.due) == 0 &&
			got != s.window.credit {
			wrong("stream %d: the peer's credit is %d, ours for it %d", id, got, s.window.credit)
		}
		if want := a.allowed[id] - a.sent[id]; s.state.CanSend() && want != s.sendDelta {
			wrong("stream %d: the send window is off by %d, want %d", id, s.sendDelta, want)
		}
	}
}

func promisesOf(s *Stream) []*Push {
	if s.extras == nil {
		return nil
	}
	return s.extras.promises
}
