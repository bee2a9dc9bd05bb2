package hyper

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/tracing"
)

// maxDumped is how many streams Dump writes.
const maxDumped = 1000

// Dump writes the state of the connection to w, as lines of text for people: its age and its end,
// the settings, the windows, the streams, the queues, and with Config.KeepFrames the last 64 frames
// that were sent and received. It may be called at any time, also after the connection has ended;
// it waits for nothing but w. The form is not stable. Values of credentials are not shown.
//
// Of the streams, the 1,000 with the lowest identifiers are written.
func (c *Conn) Dump(w io.Writer) error {
	var b bytes.Buffer
	c.lock()
	now := c.clock()
	c.dumpStateLocked(&b, now)
	c.dumpQueuesLocked(&b, now)
	ids := slices.Sorted(maps.Keys(c.streams.byID))
	for _, id := range ids[:min(len(ids), maxDumped)] {
		c.streams.byID[id].dumpLocked(&b)
	}
	c.unlock()
	if more := len(ids) - maxDumped; more > 0 {
		fmt.Fprintf(&b, "… and %d more streams\n", more)
	}
	if frames := c.writer.tracer.lastFrames(); len(frames) > 0 {
		b.WriteString("last frames:\n")
		for _, line := range frames {
			b.WriteString("  " + line + "\n")
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// dumpStateLocked writes the state of the connection, its settings and its windows.
func (c *Conn) dumpStateLocked(b *bytes.Buffer, now time.Duration) {
	name := "connection"
	if t := c.writer.tracer; t != nil {
		name += " c" + strconv.FormatUint(t.id, 10)
	}
	peer := ""
	if c.socket.remote != nil {
		peer = peerName(c.cfg.Authority, *c.socket.remote)
	}
	fmt.Fprintf(b, "%s to %s: %s, %v old\n", name, syntax.Printable(peer), c.phaseLocked(), rounded(now))
	p := &c.settings.peer
	if p.known {
		fmt.Fprintf(b, "peer's settings: MAX_CONCURRENT_STREAMS=%d INITIAL_WINDOW_SIZE=%d MAX_FRAME_SIZE=%d "+
			"MAX_HEADER_LIST_SIZE=%d HEADER_TABLE_SIZE=%d\n", p.maxStreams, p.initialWindow, p.maxFrame,
			p.maxHeaderList, p.tableSize)
	} else {
		b.WriteString("peer's settings: not received\n")
	}
	fmt.Fprintf(b, "our settings: %d sent, %d not acknowledged\n", c.settings.sent, len(c.settings.due))
	in := &c.flow.window
	fmt.Fprintf(b, "windows: we may send %d; the peer may send %d (%d not announced, %d unread, %d "+
		"received)\n",
		c.flow.sendWindow, in.credit-in.pending, in.pending, in.unread, in.total)
}

// phaseLocked returns how far the connection has ended, and why.
func (c *Conn) phaseLocked() string {
	switch {
	case c.ending.err != nil:
		return "ended: " + tracing.Redact(c.ending.err.Error())
	case c.ending.drainReason != 0:
		return "drains (" + c.ending.drainReason.String() + ")"
	}
	return "open"
}

// writerStates and readerStates have the words for the states of the two loops.
var (
	writerStates = []string{writerRunning: "runs", writerParked: "waits for work",
		writerStopped: "has stopped"}
	readerStates = []string{readerParsing: "parses", readerReceiving: "processes frames",
		readerReading: "reads",
		readerIdle:    "reads, without streams"}
)

// dumpQueuesLocked writes the queues and the liveness of the connection.
func (c *Conn) dumpQueuesLocked(b *bytes.Buffer, now time.Duration) {
	fmt.Fprintf(b, "streams: %d open, %d opened, %d promised, next %d\n", len(c.streams.byID),
		c.counts.opened,
		c.counts.promised, c.streams.nextID)
	fmt.Fprintf(b, "slots: %d of %d used (%d reserved, %d held by resets), %d requests wait\n", c.slots.used,
		c.slots.limit, c.slots.reserved, c.slots.held, c.slots.waiting.Len())
	fmt.Fprintf(b, "writer: %s, %d bytes to write, %d written, %d accepted by the socket",
		writerStates[c.writer.state.Load()],
		len(c.writer.out), c.writer.written, c.writer.flushed)
	if since := c.liveness.writeSince; since != 0 {
		fmt.Fprintf(b, ", a write has taken %v", rounded(now-since))
	}
	fmt.Fprintf(b, "; %d streams are ready, %d wait for their windows\n", c.writer.ready.len(),
		c.writer.blocked.len())
	fmt.Fprintf(b, "reader: %s, %d bytes received, the last %v ago\n", readerStates[c.reader.state],
		c.counts.received, rounded(now-c.liveness.lastRecv))
	fmt.Fprintf(b, "pings: %d sent, %d not acknowledged, round trip %v\n", c.liveness.pingsSent,
		len(c.liveness.pings), rounded(c.liveness.lastRTT))
}

// rounded returns d with a precision that is of interest.
func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// len returns the number of streams on the queue.
func (q *sendQueue) len() (n int) {
	for s := q.head; s != nil; s = s.sender.next {
		n++
	}
	return n
}

// dumpLocked writes one line about the stream.
func (s *Stream) dumpLocked(b *bytes.Buffer) {
	c := s.c
	fmt.Fprintf(b, "stream %d: %s %s, %v", s.id, syntax.Printable(s.req.method()),
		syntax.Printable(tracing.Redact(s.req.pseudo(pseudoPath, or(s.req.Path, "/")))), s.state)
	if s.push != nil {
		fmt.Fprintf(b, ", promised with stream %d", s.push.ParentID)
	}
	switch {
	case !s.answered():
		b.WriteString(", no response")
	default:
		fmt.Fprintf(b, ", status %d", s.response.StatusCode)
	}
	sent, all := s.sender.progress.count(c.writer.flushed)
	fmt.Fprintf(b, "; sent %d of %d bytes, window %d", sent, all+int64(len(s.sender.pending)),
		c.settings.peer.initialWindow+s.sendDelta)
	switch {
	case s.sender.held:
		b.WriteString(", waits for 100 (Continue)")
	case s.sender.in == &c.writer.blocked:
		b.WriteString(", blocked")
	case s.sender.in != nil:
		b.WriteString(", ready")
	}
	fmt.Fprintf(b, "; received %d bytes, %d unread, window %d", s.window.total, s.window.unread,
		s.window.credit-s.window.pending)
	if s.window.readers > 0 {
		b.WriteString(", a reader waits")
	}
	if s.headersStart >= c.writer.written && s.push == nil {
		b.WriteString("; not written yet")
	}
	b.WriteByte('\n')
}
