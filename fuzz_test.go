package hyper

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/bucket"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/state"
	"gohyper.dev/hyper/internal/wire"
)

// fuzzSeeds returns frames of every type, each alone and all in sequence, and the beginnings of
// what real servers sent.
func fuzzSeeds(f *testing.F) (seeds [][]byte) {
	f.Helper()
	files, err := filepath.Glob("testdata/frames/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatal("no testdata/frames: ", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var digits strings.Builder
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		frame, err := hex.DecodeString(digits.String())
		if err != nil {
			f.Fatal(file, err)
		}
		seeds = append(seeds, frame)
	}
	transcripts, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(transcripts) == 0 {
		f.Fatal("no testdata/transcripts: ", err)
	}
	for _, file := range transcripts {
		seeds = append(seeds, receivedIn(f, file))
	}
	return append(seeds, everyFrame())
}

// receivedIn returns the beginning of what the server of a transcript sent.
func receivedIn(f *testing.F, file string) (received []byte) {
	f.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		digits, ok := strings.CutPrefix(line, "< ")
		if !ok {
			continue
		}
		octets, err := hex.DecodeString(strings.TrimSpace(digits))
		if err != nil {
			f.Fatal(file, err)
		}
		received = append(received, octets...)
	}
	return received[:min(2<<10, len(received))]
}

// FuzzFrameReader checks that no input breaks the frame reader, that what it returns is what it
// read, and that the result does not depend on the sizes in which the bytes arrive.
func FuzzFrameReader(f *testing.F) {
	for _, p := range fuzzSeeds(f) {
		f.Add(p)
	}
	cfg := &Config{MaxFrameSize: 16 << 10, MaxHeaderListSize: 4 << 10}
	f.Fuzz(func(t *testing.T, p []byte) {
		r := testReader(t, bytes.NewReader(p), cfg)
		r.blockSize = smallBlock
		at := 0 // offset in p at which the reader must be
		for {
			h := wire.FrameHeader{}
			if len(p)-at >= wire.HeaderLen {
				h = wire.ParseFrameHeader(p[at:])
			}
			f, err := r.next()
			if len(r.buf) > maxReadBuffer || cap(r.fragments) > 4*maxJoined {
				t.Fatalf("the buffer is %d, the block %d", len(r.buf), cap(r.fragments))
			}
			if we, ok := err.(*wire.Error); ok && we.StreamID != 0 {
				at += wire.HeaderLen + h.Length
				continue
			}
			if err != nil {
				break
			}
			if f.first || f.Type != wire.Data {
				if f.FrameHeader != h {
					t.Fatalf("got %v, want %v", f.FrameHeader, h)
				}
			}
			switch f.Type {
			case wire.Data:
				if !f.first {
					t.Fatal("a part of DATA without a first one")
				}
				got, want := bytes.Clone(f.payload), h.Length-f.padding
				for !f.last {
					if f, err = r.next(); err != nil {
						break
					}
					got = append(got, f.payload...)
				}
				if err != nil {
					break
				}
				start := at + wire.HeaderLen + min(1, h.Length-want)
				if !bytes.Equal(got, p[start:start+want]) {
					t.Fatalf("%v came as %q", h, got)
				}
			case wire.Headers, wire.PushPromise:
				size := 0
				for _, field := range f.fields {
					size += field.size()
				}
				if size > cfg.MaxHeaderListSize {
					t.Fatalf("a list of %d octets, %d in all", size, f.oversize)
				}
				for flags := h.Flags; !flags.Has(wire.EndHeaders); {
					at += wire.HeaderLen + h.Length
					h = wire.ParseFrameHeader(p[at:])
					flags = h.Flags
				}
			default:
				if len(f.payload) > 0 && !bytes.Equal(f.payload, p[at+wire.HeaderLen:][:h.Length]) {
					t.Fatalf("%v came as %q", h, f.payload)
				}
			}
			at += wire.HeaderLen + h.Length
		}
		whole, err1 := readAll(testReader(t, bytes.NewReader(p), cfg))
		for _, src := range []io.Reader{iotest.OneByteReader(bytes.NewReader(p)),
			iotest.HalfReader(bytes.NewReader(p))} {
			r := testReader(t, src, cfg)
			r.blockSize = smallBlock
			parts, err2 := readAll(r)
			if !slices.Equal(whole, parts) || withoutQuote(err1) != withoutQuote(err2) {
				t.Fatalf("in one piece %v, %v; in parts, and by blocks %v, %v", whole, err1, parts, err2)
			}
		}
	})
}

// withoutQuote returns the text of err without the bytes that it quotes from a peer that speaks
// another protocol. How many it quotes depends on how many have arrived.
func withoutQuote(err error) string {
	text, _, _ := strings.Cut(err.Error(), "it sent")
	return text
}

// FuzzConn checks a whole connection with a download, an upload and pushes in progress. Whatever
// the server sends after its SETTINGS, the connection must end without a panic, a blocked call or a
// leaked goroutine, and its accounts must be correct before that.
func FuzzConn(f *testing.F) {
	for _, p := range fuzzSeeds(f) {
		f.Add(p, uint8(0))
		f.Add(p, uint8(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, chunk uint8) {
		if len(p) > 1<<20 {
			t.Skip()
		}
		defer watchdog(20 * time.Second)()
		synctest.Test(t, func(t *testing.T) {
			client, server := h2test.Pipe()
			client.SetChunk(int(chunk))
			conn, err := NewConn(context.Background(), client, &Config{
				Push: &PushPolicy{Max: 3}, Authority: "localhost", MaxHeaderListSize: 4 << 10,
				Trace: func(TraceEvent) {},
			})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			go func() { // one caller after another, so that stream IDs are fixed
				defer close(done)
				var streams []*Stream
				for _, req := range []*Request{
					{Body: strings.NewReader("")},
					{Method: "POST", Body: io.LimitReader(zeroReader{}, 3000),
						Trailer: Header{{Name: "a", Value: "b"}}},
					{Method: "HEAD", Body: strings.NewReader(""),
						Informational: func(int, Header) error { return nil }},
				} {
					s, err := conn.Open(ctx, req)
					if err != nil {
						continue
					}
					streams = append(streams, s)
				}
				for _, s := range streams {
					resp, err := s.Response(ctx)
					if err != nil {
						continue
					}
					for push := range resp.Pushes(ctx) {
						if push == nil {
							break
						}
						if pushed, err := push.Response(ctx); err == nil {
							pushed.Stream().SetReadDeadline(time.Now().Add(time.Minute))
							io.Copy(io.Discard, io.LimitReader(pushed.Body, 1<<20))
							pushed.Body.Close()
						}
					}
					io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
					resp.Trailer()
				}
			}()
			go io.Copy(io.Discard, server)
			synctest.Wait()
			conn.reader.frames.blockSize = smallBlock
			server.Write(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingInitialWindowSize,
				Value: 1000}))
			server.Write(wire.AppendSettingsAck(nil))
			synctest.Wait()
			server.Write(p)
			synctest.Wait()
			checkBooks(t, conn)
			<-done
			cancel()
			start := time.Now()
			conn.Close()
			if took := time.Since(start); took > time.Second {
				t.Errorf("Close took %v", took)
			}
			server.Close()
		})
	})
}

// watchdog ends a run that blocks forever, in real time outside of its synctest bubble. The fuzzer
// does not detect such a run by itself.
func watchdog(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, func() {
		stacks := make([]byte, 1<<20)
		panic("BUG: this takes too long\n" + string(stacks[:runtime.Stack(stacks, true)]))
	}).Stop
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

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
		case snd.in != nil || s.stop != nil:
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
	if len(c.streams.byID) > 0 || c.writer.ready.head != nil || c.writer.blocked.head != nil {
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
	if uint64(len(c.settings.due)) != c.settings.sent-c.settings.acked {
		wrong("%d SETTINGS are due, %d were sent and %d acknowledged", len(c.settings.due), c.settings.sent,
			c.settings.acked)
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
	for _, q := range []*sendQueue{&c.writer.ready, &c.writer.blocked} {
		var prev *Stream
		for s := q.head; s != nil; prev, s = s, s.sender.next {
			queued++
			snd := s.sender
			if snd.in != q || snd.prev != prev || c.streams.byID[s.id] != s || len(snd.pending) == 0 ||
				snd.held ||
				s.sendErr != nil {
				wrong("stream %d is queued and has no reason, or is badly linked", s.id)
			}
			if window := c.settings.peer.initialWindow + s.sendDelta; q == &c.writer.blocked && window > 0 &&
				!c.writer.unblock {
				wrong("stream %d is blocked with a window of %d", s.id, window)
			}
		}
		if q.tail != prev {
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

// octetAt returns a byte of the body that all these tests use. It depends on the stream and the
// offset.
func octetAt(id uint32, at int64) byte {
	return byte(uint64(at)*131 + uint64(at>>8)*17 + uint64(id)*29)
}

func octetsAt(id uint32, at int64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = octetAt(id, at+int64(i))
	}
	return p
}

// differsAt returns the index of the first byte of p that differs from the body, or -1.
func differsAt(p []byte, id uint32, at int64) int {
	for i := range p {
		if p[i] != octetAt(id, at+int64(i)) {
			return i
		}
	}
	return -1
}

// script is fuzzer input as a source of decisions. It yields zeros after its end.
type script struct{ rest []byte }

func (s *script) next() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

var scriptSizes = [...]int{0, 1, 2, 10, 63, 100, 255, 256, 1000, 4096, 5000, 16384, 20000, 40000, 65535,
	100000}

func (s *script) size() int { return scriptSizes[s.next()%byte(len(scriptSizes))] }

// FuzzSettings exchanges SETTINGS in both directions and acknowledges them at any time, with an
// upload and a download in progress. The windows must agree on both sides, and both bodies must be
// complete unless the input broke a rule.
func FuzzSettings(f *testing.F) {
	f.Add([]byte{0, 1, 4, 5, 1, 6, 9, 7, 9})
	f.Add([]byte{0, 2, 4, 0, 5, 4, 5, 7, 2, 3, 9, 1, 6, 12, 6, 12, 7, 13})
	f.Add([]byte{2, 0, 1, 2, 12, 1, 6, 10, 2, 2, 6, 10, 1, 1, 7, 15})
	f.Add([]byte{0, 3, 1, 0, 1, 3, 5, 4, 0, 4, 4, 9, 5, 13, 0, 1, 4, 8})
	f.Add([]byte{4, 8, 0, 1, 4, 10, 4, 9, 0, 1, 4, 0})
	f.Add([]byte{2, 14, 8, 2, 3, 2, 8, 1, 1, 6, 9, 8, 1})
	values := [...]uint32{0, 1, 100, 4095, 4096, 16384, 20000, 65535, 65536, 1 << 20, 1<<24 - 1, 1<<31 - 1,
		1 << 31, 1<<32 - 1, 50, 7}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 300 {
			t.Skip()
		}
		defer watchdog(20 * time.Second)()
		synctest.Test(t, func(t *testing.T) {
			a := newAuditor(t, &Config{
				Push: &PushPolicy{Max: 2}, Authority: "own.example", KeepAlive: -1, SettingsTimeout: -1,
				HeaderTableSize: 1000,
				WindowManager:   func(*Window) WindowManager { return WindowManagerFunc(WindowEvent.Consumed) },
			})
			conn, peer := a.conn, a.peer
			defer conn.Close()
			const upload = 150_000
			up := doAsync(t.Context(), conn, &Request{Method: "PUT",
				Body: bytes.NewReader(octetsAt(1, 0, upload))})
			synctest.Wait()
			down := getAsync(conn, "/")
			synctest.Wait()
			peer.WriteSettings()
			unacked := 1
			acked := func() {
				peer.WriteSettingsAck()
				unacked = max(0, unacked-1)
			}
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteHeaders(3, 0, ":status: 200")
			body := down.want(t, "the download's header").Body
			pushed := uint32(2)
			peer.WritePushPromise(3, pushed, ":method: GET", ":scheme: http", ":authority: own.example",
				":path: /")
			peer.WriteHeaders(pushed, 0, ":status: 200")
			var got, sent, read int64
			look := func(step string) {
				t.Helper()
				for _, f := range a.audit(step) {
					switch {
					case f.Type == wire.Data:
						if i := differsAt(f.Payload, 1, got); i >= 0 || f.StreamID != 1 {
							t.Fatalf("after %s: %v differs from octet %d on", step, f.FrameHeader, i)
						}
						got += int64(f.Length)
					case f.Type == wire.Settings && !f.Flags.Has(wire.Ack):
						unacked++
					}
				}
				unacked = min(unacked, 1000)
			}
			take := func(n int) {
				conn.lock()
				n = min(n, down.resp.s.buf.Len())
				conn.unlock()
				if n == 0 {
					return
				}
				buf := make([]byte, n)
				n, err := body.Read(buf)
				if i := differsAt(buf[:n], 3, read); i >= 0 || err != nil {
					t.Fatalf("the download differs from octet %d on; %v", read+int64(i), err)
				}
				read += int64(n)
			}
			write := func(n int, flags wire.Flags) {
				n = max(0, min(n, peer.Credit(0), peer.Credit(3)))
				peer.WriteData(3, flags, octetsAt(3, sent, n))
				sent += int64(n)
			}
			look("the beginning")
			unacked = 1 // the one in the preface
			in := &script{p}
			for len(in.rest) > 0 && conn.Err() == nil {
				switch op := in.next() % 10; op {
				case 0, 9:
					settings := make([]wire.Setting, in.next()%4)
					for i := range settings {
						settings[i] = wire.Setting{ID: wire.SettingID(in.next() % 10),
							Value: values[in.next()%16]}
					}
					peer.WriteSettings(settings...)
				case 1:
					acked()
				case 2, 3:
					size := min(values[in.next()%16], 1<<30)
					go conn.UpdateSettings(t.Context(), Setting{SettingInitialWindowSize, size})
				case 4:
					a.grant(1, max(1, in.size()))
				case 5:
					a.grant(0, max(1, in.size()))
				case 6:
					write(in.size(), 0)
				case 7:
					take(in.size())
				case 8:
					// If a promise comes between two of our SETTINGS, its window is the one that
					// the peer knows.
					if pushed < 6 {
						pushed += 2
						peer.WritePushPromise(3, pushed, ":method: GET", ":scheme: http",
							":authority: own.example", ":path: /")
						if n := min(int(in.next()), peer.Credit(0), peer.Credit(pushed)); n > 0 {
							peer.WriteHeaders(pushed, 0, ":status: 200")
							peer.WriteData(pushed, 0, make([]byte, n))
						}
					}
				}
				look("an instruction")
			}
			if conn.Err() != nil {
				return
			}
			if a.streams[1] == nil && got < upload || a.streams[3] == nil {
				return // a WINDOW_UPDATE exceeded the largest window
			}
			// The input broke no rule, so the rest must go through.
			for unacked > 0 {
				acked()
				look("an acknowledgment")
			}
			peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: wire.InitialWindow})
			look("the last SETTINGS")
			if n := upload - got - (wire.InitialWindow + a.allowed[1] - a.sent[1]); conn.Err() == nil &&
				n > 0 {
				a.grant(1, int(n))
			}
			if n := upload - got - (wire.InitialWindow + a.allowed[0] - a.sent[0]); conn.Err() == nil &&
				n > 0 {
				a.grant(0, int(n))
			}
			look("the last windows")
			if conn.Err() != nil {
				return // the raised initial window was too large for a stream
			}
			if got != upload {
				t.Fatalf("%d octets came, want %d:\n%s", got, upload, peer.Log())
			}
			write(1, wire.EndStream)
			peer.WriteData(1, wire.EndStream, nil)
			look("the end of both bodies")
			take(1 << 20)
			if read != sent {
				t.Fatalf("read %d octets of the download, want %d\n%s", read, sent, peer.Log())
			}
			if n, err := body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatalf("behind the download: %d, %v", n, err)
			}
			wantBody(t, "the upload's answer", up.want(t, "the upload").Body, "")
			look("the end")
		})
	})
}

// A scriptRun plays one script. Each instruction is something that the peer or a caller does,
// followed by an audit.
type scriptRun struct {
	*auditor
	log       []string
	ids       []uint32 // streams that the peer knows
	promised  uint32
	wrote     map[uint32]int64 // bytes of DATA from the peer
	ended     map[uint32]bool  // streams that it ended with END_STREAM
	exchanges []*scriptExchange
	bodies    []*scriptBody
	most      int          // the largest size
	calls     atomic.Int64 // calls in progress
}

// A scriptExchange is what a caller knows of one stream.
type scriptExchange struct {
	cancel  context.CancelFunc
	s       *Stream
	resp    *Response
	push    *Push
	read    int64
	reading bool
}

// A scriptBody is a request body that counts how often it is closed. Its Read may block until then.
type scriptBody struct {
	left   int
	blocks bool
	closes atomic.Int64
	closed chan struct{}
}

func (b *scriptBody) Read(p []byte) (int, error) {
	if b.left == 0 && b.blocks {
		<-b.closed
		return 0, os.ErrClosed
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), b.left)
	b.left -= n
	return n, nil
}

func (b *scriptBody) Close() error {
	if b.closes.Add(1) == 1 {
		close(b.closed)
	}
	return nil
}

// A scriptOp is one instruction: one byte for itself, and one for each argument.
type scriptOp struct {
	name string
	args int
	do   func(r *scriptRun, arg []byte)
}

var scriptWindows = [...]int{1, 10, 100, 1000, 5000, 16384, 65535, 1 << 20, 1 << 30, wire.MaxWindow, 0}

var scriptCodes = [...]wire.ErrCode{wire.Cancel, wire.NoError, wire.RefusedStream, wire.ProtocolError,
	wire.InternalError, 0xbad}

var scriptSettings = [...]wire.Setting{
	{ID: wire.SettingMaxConcurrentStreams, Value: 0},
	{ID: wire.SettingMaxConcurrentStreams, Value: 1},
	{ID: wire.SettingMaxConcurrentStreams, Value: 2},
	{ID: wire.SettingMaxConcurrentStreams, Value: 100},
	{ID: wire.SettingInitialWindowSize, Value: 0},
	{ID: wire.SettingInitialWindowSize, Value: 10},
	{ID: wire.SettingInitialWindowSize, Value: 65535},
	{ID: wire.SettingInitialWindowSize, Value: 1 << 20},
	{ID: wire.SettingInitialWindowSize, Value: wire.MaxWindow},
	{ID: wire.SettingMaxFrameSize, Value: 1 << 20},
	{ID: wire.SettingMaxFrameSize, Value: 16384},
	{ID: wire.SettingHeaderTableSize, Value: 0},
	{ID: wire.SettingHeaderTableSize, Value: 4096},
	{ID: wire.SettingMaxHeaderListSize, Value: 40},
	{ID: wire.SettingMaxHeaderListSize, Value: 1 << 20},
	{ID: wire.SettingEnableConnectProtocol, Value: 1},
	{ID: 0x1234, Value: 5},
	{ID: wire.SettingEnablePush, Value: 1},
	{ID: wire.SettingInitialWindowSize, Value: 1 << 31},
	{ID: wire.SettingMaxFrameSize, Value: 3},
}

// scriptBad are frames that no server may send, or that have no meaning.
var scriptBad = []func(id uint32) []byte{
	func(id uint32) []byte { return rawFrame(wire.Priority, 0, id, make([]byte, 4)) },
	func(id uint32) []byte { return rawFrame(wire.Priority, 0, id, make([]byte, 5)) },
	func(id uint32) []byte { return rawFrame(0x77, 0xff, id, make([]byte, 70)) },
	func(id uint32) []byte { return rawFrame(wire.Data, wire.Padded, id, []byte{3, 1, 2}) },
	func(id uint32) []byte { return rawFrame(wire.Data, 0, 0, []byte{1}) },
	func(id uint32) []byte { return rawFrame(wire.RSTStream, 0, id, []byte{1}) },
	func(id uint32) []byte { return rawFrame(wire.WindowUpdate, 0, id, make([]byte, 5)) },
	func(id uint32) []byte { return rawFrame(wire.Continuation, wire.EndHeaders, id, []byte{0x88}) },
	// The CONTINUATION of these HEADERS never comes.
	func(id uint32) []byte { return rawFrame(wire.Headers, 0, id, []byte{0x88}) },
	func(id uint32) []byte { return rawFrame(wire.Headers, wire.EndHeaders, id, []byte{0xff}) },
	func(id uint32) []byte {
		return rawFrame(wire.Headers, wire.EndHeaders|wire.PriorityFlag|wire.Padded, id,
			[]byte{1, 0, 0, 0, byte(id), 9, 0x88, 0})
	},
	func(id uint32) []byte { return rawFrame(wire.Settings, wire.Ack, 0, make([]byte, 6)) },
	func(id uint32) []byte {
		return wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 1 << 20, StreamID: id})
	},
	func(id uint32) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") },
	func(id uint32) []byte { return bytes.Repeat(rawFrame(0x77, 0, 0, nil), 700) },
	func(id uint32) []byte { return bytes.Repeat(wire.AppendPing(nil, 0, [8]byte{}), 600) },
}

var scriptOddHeaders = [][]string{
	{"a: b"}, {":status: 101"}, {":status: 99"}, {":status: 200", "Upper: x"},
	{":status: 200", ":status: 200"},
	{":status: 204"}, {":status: 304", "content-length: 5"}, {":status: 404", "content-length: 0"},
	{":status: 200", "content-length: 1", "content-length: 2"},
	{":status: 200", "connection: close"}, {":path: /"}, {":status: 200", "content-encoding: gzip"},
	{":status: 999"},
}

// scriptOps are the instructions. Those of the peer begin with a capital letter.
var scriptOps = []scriptOp{
	{"Headers", 1, func(r *scriptRun, arg []byte) { r.peer.WriteHeaders(r.id(arg[0]), 0, ":status: 200") }},
	{"HeadersEnd", 1, func(r *scriptRun, arg []byte) {
		r.end(arg[0]).WriteHeaders(r.id(arg[0]), wire.EndStream, ":status: 200")
	}},
	{"HeadersLength", 2, func(r *scriptRun, arg []byte) {
		r.peer.WriteHeaders(r.id(arg[0]), 0, ":status: 200", fmt.Sprint("content-length: ", r.size(arg[1])))
	}},
	{"HeadersOdd", 2, func(r *scriptRun, arg []byte) {
		r.end(arg[0]).WriteHeaders(r.id(arg[0]), wire.Flags(arg[1]>>7),
			scriptOddHeaders[int(arg[1]&0x7f)%len(scriptOddHeaders)]...)
	}},
	{"HeadersSplit", 2, func(r *scriptRun, arg []byte) {
		r.peer.WriteHeadersSplit(r.id(arg[0]), 0, 1+int(arg[1]%8), ":status: 200",
			"x-long: "+strings.Repeat("x", 20))
	}},
	{"Interim", 2, func(r *scriptRun, arg []byte) {
		r.peer.WriteHeaders(r.id(arg[0]), 0, fmt.Sprint(":status: ", 100+arg[1]%4*3))
	}},
	{"Trailers", 1, func(r *scriptRun, arg []byte) { r.end(arg[0]).WriteTrailers(r.id(arg[0]), "x-sum: 1") }},
	{"Data", 2, func(r *scriptRun, arg []byte) { r.data(r.id(arg[0]), arg[1], 0, false) }},
	{"DataEnd", 2, func(r *scriptRun, arg []byte) { r.data(r.id(arg[0]), arg[1], wire.EndStream, false) }},
	{"DataTooMuch", 2, func(r *scriptRun, arg []byte) { r.data(r.id(arg[0]), arg[1], 0, true) }},
	{"DataPadded", 3, func(r *scriptRun, arg []byte) {
		id := r.id(arg[0])
		n := min(r.size(arg[1]), 16000, r.peer.Credit(0)-300, r.peer.Credit(id)-300)
		if n >= 0 && !r.ended[id] {
			octets := octetsAt(id, r.wrote[id], n)
			r.wrote[id] += int64(n)
			r.peer.WritePaddedData(id, 0, octets, int(arg[2]))
		}
	}},
	{"Reset", 2, func(r *scriptRun, arg []byte) {
		r.peer.WriteRSTStream(r.id(arg[0]), scriptCodes[int(arg[1])%len(scriptCodes)])
	}},
	{"Grant", 2, func(r *scriptRun, arg []byte) {
		r.grant(r.id(arg[0]),
			scriptWindows[int(arg[1])%len(scriptWindows)])
	}},
	{"GrantAll", 1, func(r *scriptRun, arg []byte) {
		r.grant(0,
			scriptWindows[int(arg[0])%len(scriptWindows)])
	}},
	{"Settings", 2, func(r *scriptRun, arg []byte) {
		n := len(scriptSettings)
		r.peer.WriteSettings(scriptSettings[int(arg[0])%n], scriptSettings[int(arg[1])%n])
	}},
	{"SettingsEmpty", 0, func(r *scriptRun, arg []byte) { r.peer.WriteSettings() }},
	{"SettingsAck", 0, func(r *scriptRun, arg []byte) { r.peer.WriteSettingsAck() }},
	{"Ping", 1, func(r *scriptRun, arg []byte) { r.peer.WritePing(0, [8]byte{arg[0]}) }},
	{"Pong", 1, func(r *scriptRun, arg []byte) { r.peer.WritePing(wire.Ack, [8]byte{7: arg[0]}) }},
	{"GoAway", 2, func(r *scriptRun, arg []byte) {
		r.peer.WriteGoAway(uint32(arg[0]), scriptCodes[int(arg[1])%len(scriptCodes)], "why")
	}},
	{"GoAwayLater", 0, func(r *scriptRun, arg []byte) {
		r.peer.WriteGoAway(wire.MaxStreamID, wire.NoError,
			"")
	}},
	{"Promise", 1, func(r *scriptRun, arg []byte) { r.promise(r.id(arg[0]), "GET", "own.example") }},
	{"PromiseOdd", 2, func(r *scriptRun, arg []byte) {
		switch arg[1] % 4 {
		case 0:
			r.promise(r.id(arg[0]), "POST", "own.example")
		case 1:
			r.promise(r.id(arg[0]), "GET", "another.example")
		case 2:
			r.promised -= 2
			r.promise(r.id(arg[0]), "GET", "own.example")
		case 3:
			r.promise(r.id(arg[0]), "GET\n", "own.example")
		}
	}},
	{"Bad", 2, func(r *scriptRun,
		arg []byte) {
		r.peer.WriteRaw(scriptBad[int(arg[1])%len(scriptBad)](r.id(arg[0])))
	}},
	{"CloseConn", 0, func(r *scriptRun, arg []byte) { r.server.Close() }},
	{"CloseWriting", 0, func(r *scriptRun, arg []byte) { r.server.CloseWrite() }},
	{"Stall", 1, func(r *scriptRun,
		arg []byte) {
		r.server.Stall()
		r.client.SetWriteBuffer(r.size(arg[0]))
	}},
	{"Resume", 0, func(r *scriptRun, arg []byte) { r.server.Resume(); r.client.SetWriteBuffer(-1) }},
	{"Cut", 1, func(r *scriptRun, arg []byte) { r.client.BreakReadAfter(int64(arg[0]), nil) }},
	{"Uncut", 0, func(r *scriptRun, arg []byte) { r.client.BreakReadAfter(1<<40, nil) }},

	{"get", 0, func(r *scriptRun, arg []byte) { r.request(&Request{}) }},
	{"head", 0, func(r *scriptRun, arg []byte) { r.request(&Request{Method: "HEAD"}) }},
	{"getInformed", 0, func(r *scriptRun, arg []byte) {
		r.request(&Request{Informational: func(int, Header) error { return nil }})
	}},
	{"postMemory", 1, func(r *scriptRun, arg []byte) {
		r.request(&Request{Method: "POST", Body: bytes.NewReader(make([]byte, r.size(arg[0]))),
			Trailer: Header{{Name: "a", Value: "b"}}[:arg[0]>>7]})
	}},
	{"postReader", 1, func(r *scriptRun, arg []byte) {
		r.request(&Request{Method: "POST",
			Body: r.body(arg[0])})
	}},
	{"postLength", 2, func(r *scriptRun, arg []byte) {
		r.request(&Request{Method: "POST", Body: r.body(arg[0]), ContentLength: int64(r.size(arg[1]))})
	}},
	{"postExpect", 1, func(r *scriptRun, arg []byte) {
		r.request(&Request{Method: "POST", Body: r.body(arg[0]),
			Header: Header{{Name: "expect", Value: "100-continue"}}})
	}},
	{"open", 1, func(r *scriptRun, arg []byte) {
		r.open(&Request{Method: "POST", ContentLength: int64(r.size(arg[0]))})
	}},
	{"openTunnel", 0, func(r *scriptRun, arg []byte) {
		r.open(&Request{Method: "CONNECT",
			Protocol: "websocket"})
	}},
	{"write", 2, func(r *scriptRun, arg []byte) {
		r.on(arg[0], func(e *scriptExchange) { e.s.Write(make([]byte, r.size(arg[1]))) })
	}},
	{"closeWrite", 1, func(r *scriptRun, arg []byte) {
		r.on(arg[0],
			func(e *scriptExchange) { e.s.CloseWrite() })
	}},
	{"sendTrailers", 1, func(r *scriptRun, arg []byte) {
		r.on(arg[0], func(e *scriptExchange) { e.s.SendTrailers(Header{{Name: "t", Value: "v"}}) })
	}},
	{"response", 1, func(r *scriptRun, arg []byte) {
		r.on(arg[0], func(e *scriptExchange) {
			if resp, err := e.s.Response(context.Background()); err == nil {
				e.resp = resp
			}
		})
	}},
	{"read", 2, (*scriptRun).read},
	{"closeBody", 1, func(r *scriptRun, arg []byte) {
		r.on(arg[0], func(e *scriptExchange) {
			if e.resp != nil {
				e.resp.Body.Close()
			}
		})
	}},
	{"reset", 2, func(r *scriptRun, arg []byte) {
		r.on(arg[0],
			func(e *scriptExchange) { e.s.Reset(ErrCode(arg[1])) })
	}},
	{"cancel", 1, func(r *scriptRun, arg []byte) {
		if len(r.exchanges) > 0 {
			r.exchanges[int(arg[0])%len(r.exchanges)].cancel()
		}
	}},
	{"deadline", 2, func(r *scriptRun, arg []byte) {
		r.on(arg[0],
			func(e *scriptExchange) { e.s.SetDeadline(time.Now().Add(time.Duration(int8(arg[1])) * time.Second)) })
	}},
	{"ping", 0, func(r *scriptRun, arg []byte) { r.call(func() { r.conn.Ping(context.Background()) }) }},
	{"updateSettings", 1, func(r *scriptRun, arg []byte) {
		size := uint32(scriptWindows[int(arg[0])%len(scriptWindows)])
		r.call(func() {
			r.conn.UpdateSettings(context.Background(),
				Setting{SettingInitialWindowSize, size})
		})
	}},
	{"waitSettings", 0,
		func(r *scriptRun, arg []byte) { r.call(func() { r.conn.WaitSettings(context.Background()) }) }},
	{"pushes", 1, func(r *scriptRun, arg []byte) {
		r.on(arg[0], func(e *scriptExchange) {
			for push, err := range e.s.Pushes(context.Background()) {
				if err != nil {
					return
				}
				r.claim(push)
			}
		})
	}},
	{"cancelPush", 1, func(r *scriptRun, arg []byte) {
		r.on(arg[0], func(e *scriptExchange) {
			if e.push != nil {
				e.push.Cancel()
			}
		})
	}},
	{"sleep", 1, func(r *scriptRun, arg []byte) {
		time.Sleep([...]time.Duration{time.Millisecond, 5 * time.Millisecond, time.Second, 4 * time.Second,
			11 * time.Second, 31 * time.Second}[arg[0]%6])
	}},
	{"shutdown", 0,
		func(r *scriptRun, arg []byte) { r.call(func() { r.conn.Shutdown(context.Background()) }) }},
	{"close", 0, func(r *scriptRun, arg []byte) { r.call(func() { r.conn.Close() }) }},
	{"stats", 0, func(r *scriptRun, arg []byte) { r.conn.Stats(); r.conn.PeerSettings(); r.conn.Err() }},
}

var scriptRare = map[string]bool{"CloseConn": true, "CloseWriting": true, "GoAway": true, "GoAwayLater": true,
	"close": true, "shutdown": true,
	"Bad": true, "HeadersOdd": true, "PromiseOdd": true, "DataTooMuch": true, "Cut": true, "Stall": true}

// assemble turns a script in words into its bytes: "get; Headers 0; Data 0 4".
func assemble(text string) (code []byte) {
	for line := range strings.SplitSeq(text, ";") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		i := slices.IndexFunc(scriptOps, func(op scriptOp) bool { return op.name == words[0] })
		if i < 0 || len(words) != 1+scriptOps[i].args {
			panic("BUG: " + line)
		}
		code = append(code, byte(i))
		if scriptRare[words[0]] {
			code = append(code, 0)
		}
		for _, word := range words[1:] {
			n, err := strconv.Atoi(word)
			if err != nil {
				panic("BUG: " + line)
			}
			code = append(code, byte(n))
		}
	}
	return code
}

// id chooses a stream, mostly one that the peer knows.
func (r *scriptRun) id(arg byte) uint32 {
	if arg >= 250 || len(r.ids) == 0 {
		return [...]uint32{1, 2, 3, 99, wire.MaxStreamID, 100}[arg%6]
	}
	return r.ids[int(arg)%len(r.ids)]
}

// end records that the peer's next frame ends the stream.
func (r *scriptRun) end(arg byte) *h2test.Peer {
	r.ended[r.id(arg)] = true
	return r.peer
}

func (r *scriptRun) size(arg byte) int { return min(scriptSizes[arg%16], r.most) }

func (r *scriptRun) data(id uint32, size byte, flags wire.Flags, tooMuch bool) {
	n := r.size(size)
	if !tooMuch {
		n = max(0, min(n, r.peer.Credit(0), r.peer.Credit(id)))
	}
	octets := octetsAt(id, r.wrote[id], n)
	if !r.ended[id] { // first, because a reader may get all before the write returns
		r.wrote[id] += int64(n)
		r.ended[id] = flags.Has(wire.EndStream)
	}
	r.peer.WriteData(id, flags, octets)
}

func (r *scriptRun) promise(parent uint32, method, authority string) {
	r.promised += 2
	r.ids = append(r.ids, r.promised)
	r.peer.WritePushPromise(parent, r.promised, ":method: "+method, ":scheme: http", ":authority: "+authority,
		":path: /")
}

// call runs f on a goroutine of its own.
func (r *scriptRun) call(f func()) {
	r.calls.Add(1)
	go func() {
		defer r.calls.Add(-1)
		f()
	}()
}

func (r *scriptRun) body(arg byte) io.Reader {
	b := &scriptBody{left: r.size(arg), blocks: arg&0x80 != 0, closed: make(chan struct{})}
	r.bodies = append(r.bodies, b)
	return b
}

func (r *scriptRun) request(req *Request) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &scriptExchange{cancel: cancel}
	r.exchanges = append(r.exchanges, e)
	r.call(func() {
		if resp, err := r.conn.Do(ctx, req); err == nil {
			e.s, e.resp = resp.Stream(), resp
		}
	})
}

func (r *scriptRun) open(req *Request) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &scriptExchange{cancel: cancel}
	r.exchanges = append(r.exchanges, e)
	r.call(func() {
		if s, err := r.conn.Open(ctx, req); err == nil {
			e.s = s
		}
	})
}

// claim requests the response of a push.
func (r *scriptRun) claim(push *Push) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &scriptExchange{cancel: cancel, push: push, s: push.s}
	r.exchanges = append(r.exchanges, e)
	r.call(func() {
		if resp, err := push.Response(ctx); err == nil {
			e.resp = resp
		}
	})
}

// on calls f on its own goroutine, for one of the exchanges that have a stream.
func (r *scriptRun) on(arg byte, f func(e *scriptExchange)) {
	var able []*scriptExchange
	for _, e := range r.exchanges {
		if e.s != nil {
			able = append(able, e)
		}
	}
	if len(able) > 0 {
		e := able[int(arg)%len(able)]
		r.call(func() { f(e) })
	}
}

// read reads once, and compares the result with what the peer wrote.
func (r *scriptRun) read(arg []byte) {
	r.on(arg[0], func(e *scriptExchange) {
		if e.resp == nil || e.reading {
			return
		}
		e.reading = true
		defer func() { e.reading = false }()
		p := make([]byte, r.size(arg[1]))
		n, err := e.resp.Raw().Read(p)
		if i := differsAt(p[:n], e.s.id, e.read); i >= 0 {
			r.t.Errorf("stream %d: octet %d is not what the peer wrote", e.s.id, e.read+int64(i))
		}
		e.read += int64(n)
		if err == io.EOF && !e.resp.bodyless() && (!r.ended[e.s.id] || e.read != r.wrote[e.s.id]) {
			r.t.Errorf("stream %d: io.EOF after %d octets; the peer wrote %d, and an end: %v", e.s.id, e.read,
				r.wrote[e.s.id], r.ended[e.s.id])
		}
	})
}

// step plays the next instruction. A rare instruction also needs a second byte below 40, so that
// random scripts do not end at once.
func (r *scriptRun) step(in *script) {
	op := scriptOps[int(in.next())%len(scriptOps)]
	if scriptRare[op.name] && in.next() >= 40 {
		op = scriptOp{name: "nothing", do: func(*scriptRun, []byte) {}}
	}
	arg := make([]byte, op.args)
	for i := range arg {
		arg[i] = in.next()
	}
	r.log = append(r.log, fmt.Sprint(op.name, arg))
	op.do(r, arg)
	for _, f := range r.audit(op.name) {
		if f.Type == wire.Headers && !slices.Contains(r.ids, f.StreamID) {
			r.ids = append(r.ids, f.StreamID)
		}
	}
}

// scriptConfigs are the configurations. A script's first byte chooses one.
var scriptConfigs = []func(cfg *Config){
	func(cfg *Config) {},
	func(cfg *Config) { cfg.Push = &PushPolicy{Max: 2} },
	func(cfg *Config) { cfg.Push = &PushPolicy{Accept: func(p *Push) bool { return p.ID()%4 != 0 }} },
	func(cfg *Config) {
		cfg.WindowManager, cfg.InitialStreamWindow = ReadWindow{Stream: 1000, Connection: 70000}.New, 100
	},
	func(cfg *Config) { cfg.WindowManager = FixedWindow{Size: 5000}.New; cfg.Push = &PushPolicy{} },
	func(cfg *Config) {
		cfg.WindowManager, cfg.InitialStreamWindow = RateLimitedWindow{PerSecond: 10000}.New, -1
	},
	func(cfg *Config) { // probes the round trip, and breaks a rule in the end
		cfg.WindowManager = func(w *Window) WindowManager {
			return WindowManagerFunc(func(ev WindowEvent) int {
				w.ProbeRTT()
				if w.StreamID() != 0 && ev.Total > 5000 {
					return -1
				}
				return ev.Received()
			})
		}
	},
	func(cfg *Config) {
		cfg.KeepAlive, cfg.SettingsTimeout, cfg.HandshakeTimeout, cfg.WriteStallTimeout = -1, -1, -1, -1
		cfg.Push = &PushPolicy{Max: 1}
	},
}

// playScript plays a script to its end. Every call must return, every body must be closed, and no
// goroutine may be left.
func playScript(t *testing.T, p []byte) {
	in := &script{p}
	cfg := &Config{Authority: "own.example", MaxHeaderListSize: 4 << 10}
	scriptConfigs[int(in.next())%len(scriptConfigs)](cfg)
	r := &scriptRun{auditor: newAuditor(t, cfg), wrote: map[uint32]int64{}, ended: map[uint32]bool{}}
	defer func() {
		if t.Failed() {
			t.Log(strings.Join(r.log, "; "))
		}
	}()
	how := in.next()
	if r.most = 1 << 20; how%4 >= 2 {
		r.most = 300 // small chunks would take too long otherwise
	}
	r.client.SetChunk([...]int{0, 0, 1, 7}[how%4])
	if how&4 == 0 {
		time.Sleep(corkDelay)
	}
	r.peer.WriteSettings()
	r.peer.WriteSettingsAck()
	r.audit("the handshake")
	for len(in.rest) > 0 {
		r.step(in)
	}
	start := time.Now()
	r.conn.Close()
	if took := time.Since(start); took > closeGrace {
		t.Errorf("Close took %v", took)
	}
	r.server.Resume()
	r.audit("Close")
	if n := r.calls.Load(); n != 0 {
		t.Errorf("%d calls are under way behind Close", n)
	}
	for _, b := range r.bodies {
		if n := b.closes.Load(); n != 1 {
			t.Errorf("a request body was closed %d times", n)
		}
	}
	for _, e := range r.exchanges {
		e.cancel()
	}
}

// scriptSeeds are typical exchanges, and scripts that have found bugs.
var scriptSeeds = []string{
	"get; Headers 0; Data 0 7; DataEnd 0 8; response 0; read 0 9; read 0 9; read 0 9",
	"head; HeadersLength 0 4; DataEnd 0 0; closeBody 0",
	"postMemory 15; Grant 0 6; GrantAll 6; HeadersEnd 0; Grant 0 7; GrantAll 7; read 0 1",
	"postReader 143; Headers 0; Data 0 9; Reset 0 1; read 0 12; read 0 3",
	"postLength 9 9; Interim 0 0; Headers 0; Trailers 0; read 0 5",
	"postExpect 10; Interim 0 0; GrantAll 8; HeadersEnd 0; sleep 2",
	"open 10; write 0 10; closeWrite 0; Headers 0; response 0; DataPadded 0 8 20; read 0 9; closeBody 0",
	"open 0; write 0 15; Settings 4 4; Grant 0 8; GrantAll 8; Settings 7 9; sendTrailers 0; HeadersEnd 0",
	"get; Promise 0; pushes 0; Headers 1; Data 1 9; Headers 0; read 1 9; cancelPush 1; DataEnd 0 1; " +
		"DataEnd 1 0",
	"get; Promise 0; Promise 0; Promise 0; Headers 0; closeBody 0; Headers 1; Data 1 5",
	"Settings 1 1; get; get; get; cancel 0; Pong 1; HeadersEnd 1; cancel 2; sleep 4; HeadersEnd 2",
	"get; get; GoAwayLater; GoAway 1 1; HeadersEnd 0; sleep 1",
	"get; shutdown; Headers 0; DataEnd 0 5; read 0 7; sleep 2",
	"ping; Pong 1; Ping 3; updateSettings 4; SettingsAck; updateSettings 1; get; Headers 0; Data 0 9; " +
		"SettingsAck; read 0 12",
	"get; Stall 2; get; postMemory 15; sleep 3; Resume; HeadersEnd 0; HeadersEnd 1; HeadersEnd 2",
	"get; Cut 3; Headers 0; Data 0 9; Uncut; read 0 11; Cut 12; DataEnd 0 9; cancel 0; Uncut; get",
	"open 0; deadline 0 1; write 0 15; sleep 3; deadline 0 100; write 0 4; reset 0 8; write 0 1",
	"openTunnel; waitSettings; Settings 15 15; openTunnel; Headers 0; write 0 9; Data 0 9; closeWrite 0; " +
		"DataEnd 0 0",
	"get; Bad 0 0; get; Bad 1 1; HeadersOdd 1 5; HeadersOdd 1 3; close; sleep 1",
	// A window manager fails at padding.
	"get; Headers 0; DataPadded 0 10 48; get; Headers 1; Data 1 5",
	// A 404 before the upload's end holds a slot.
	"Settings 1 1; postReader 138; get; HeadersOdd 0 135; Pong 1; HeadersEnd 1",
}

// FuzzScript checks that the connection's accounts are correct after each step, whatever the peer
// and the callers do in whatever order. At the end every call has returned and nothing is left.
func FuzzScript(f *testing.F) {
	for i, text := range scriptSeeds {
		code := assemble(text)
		for config := range scriptConfigs {
			f.Add(append([]byte{byte(config), byte(i)}, code...))
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 400 {
			t.Skip()
		}
		defer watchdog(20 * time.Second)()
		synctest.Test(t, func(t *testing.T) { playScript(t, p) })
	})
}

func promisesOf(s *Stream) []*Push {
	if s.extras == nil {
		return nil
	}
	return s.extras.promises
}
