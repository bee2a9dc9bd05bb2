// Package h2test has the server side for a client under test: a connection in memory that can fail
// at any byte ([Pipe]), a scripted HTTP/2 server ([Peer]), certificates, and a DNS server ([Zone]).
//
//	client, server := h2test.Pipe()
//	peer := h2test.NewPeer(t, server)
//	... the client under test sends GET / on client ...
//	peer.Handshake()
//	peer.WantHeaders("the request", 1, ":method: GET", ":path: /")
//	peer.WriteHeaders(1, 0, ":status: 200")
//	peer.WriteData(1, wire.EndStream, []byte("hello"))
//	peer.WantIdle("and nothing else")
//
// All blocking is durable in the sense of testing/synctest, so tests can run in a bubble with fake
// time.
package h2test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// Limits of a Peer.
const (
	wantTimeout = 10 * time.Second // the timeout of a Want; fake time in a bubble
	logSize     = 20               // frames shown with a failure
)

// A Peer is a scripted HTTP/2 server. Its Write methods send frames at once and do not check them.
// A write that fails only shows in the log, because the client may have closed the connection. Its
// Want methods take the client's frames in the order sent. They fail the test, with their reason,
// if the next frame is another one or if no frame comes.
//
// The peer always reads, so the client's writes never wait for the test; use [Conn.Stall] to make
// them wait. The peer checks what no client may do: a malformed frame, a broken header block, or
// DATA beyond its windows fails the test at the next Want, or at the end of the test.
type Peer struct {
	t    testing.TB
	conn net.Conn
	done chan struct{} // closed when readLoop has ended

	enc     *hpack.Encoder // used by the test's goroutine only
	block   bytes.Buffer   // the output of enc
	encSize uint32         // the client's HEADER_TABLE_SIZE that enc uses

	writing chan struct{} // a 1-slot lock of writing, batch and held
	batch   bool          // writes are kept in held
	held    []byte

	mu       sync.Mutex    // guards everything below; never held while blocked
	changed  chan struct{} // closed and replaced when queue or err changes
	queue    []Frame       // received, and not taken yet
	err      error         // why readLoop has ended
	reported bool          // the test has failed with err, a violation
	ignored  map[wire.FrameType]bool
	autoPing bool
	autoAck  bool
	log      []string // the last logSize frames in both directions
	books    books
}

// A Frame is a frame that the client sent.
type Frame struct {
	wire.FrameHeader
	Payload []byte
	Headers *Headers // of a HEADERS frame, with its CONTINUATIONs; else nil
}

// String returns the textual form of package wire, followed by the fields, one on each line.
func (f Frame) String() string {
	if f.Headers == nil {
		return f.Text(f.Payload)
	}
	return f.Text(f.Payload) + fieldLines(f.Headers.Fields)
}

// Headers is a header block that the client sent. Its embedded header is that of the HEADERS frame.
type Headers struct {
	wire.FrameHeader
	EndStream bool
	Fields    []hpack.HeaderField // decoded, in order; Sensitive if never indexed
	Block     []byte              // in encoded form
	Frames    []wire.FrameHeader  // the HEADERS frame and its CONTINUATIONs
}

// Get returns the value of the first field with that name, "" if there is none.
func (h Headers) Get(name string) string {
	for _, f := range h.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// NewPeer returns a peer that reads from conn. It writes nothing until the test tells it to. It is
// closed at the end of the test.
func NewPeer(t testing.TB, conn net.Conn) *Peer {
	p := &Peer{
		t:       t,
		conn:    conn,
		done:    make(chan struct{}),
		encSize: wire.HeaderTableSize,
		writing: make(chan struct{}, 1),
		changed: make(chan struct{}),
		ignored: map[wire.FrameType]bool{},
		books:   newBooks(),
	}
	p.enc = hpack.NewEncoder(&p.block)
	go p.readLoop()
	t.Cleanup(p.end)
	return p
}

// Close closes the connection and waits until the reader has ended.
func (p *Peer) Close() {
	p.conn.Close()
	<-p.done
}

// end closes the peer at the end of the test, and reports a violation that no Want has reported.
func (p *Peer) end() {
	p.t.Helper()
	p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if v, ok := p.err.(violation); ok && !p.reported {
		p.t.Errorf("the client broke a rule: %v\n%s", v, p.logLocked())
	}
}

// Ignore makes every Want skip frames of these types.
func (p *Peer) Ignore(types ...wire.FrameType) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range types {
		p.ignored[t] = true
	}
}

// AutoPing acknowledges every PING that arrives from now on. No Want sees these.
func (p *Peer) AutoPing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.autoPing = true
}

// AutoSettings acknowledges every SETTINGS frame that arrives from now on. No Want sees these.
func (p *Peer) AutoSettings() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.autoAck = true
}

// Credit returns what the peer may still send on a stream, or on the connection if stream is 0:
// what the client has granted, less the DATA that was written. It is negative if the test has
// written too much.
func (p *Peer) Credit(stream uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.books.credit(stream))
}

// Log returns the last frames in both directions, as failures show them. "-> " marks those of the
// client.
func (p *Peer) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logLocked()
}

// logLocked is Log for a caller that holds p.mu.
func (p *Peer) logLocked() string { return strings.Join(p.log, "\n") }

// record adds a line to the log.
func (p *Peer) record(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recordLocked(line)
}

// recordLocked is record for a caller that holds p.mu.
func (p *Peer) recordLocked(line string) {
	if len(p.log) == logSize {
		p.log = slices.Delete(p.log, 0, 1)
	}
	p.log = append(p.log, line)
}

// A violation is an error that describes what no client may send.
type violation string

// Error implements error.
func (v violation) Error() string { return string(v) }

// readLoop reads until the connection ends or the client breaks a rule.
func (p *Peer) readLoop() {
	defer close(p.done)
	err := p.readFrames(bufio.NewReaderSize(p.conn, 64<<10))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	p.changedLocked()
}

// changedLocked wakes every await.
func (p *Peer) changedLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// readFrames reads and queues frames. It returns the error that ended the connection, or a
// violation.
func (p *Peer) readFrames(br *bufio.Reader) error {
	preface := make([]byte, len(wire.ClientPreface))
	if n, err := io.ReadFull(br, preface); err != nil {
		if !strings.HasPrefix(wire.ClientPreface, string(preface[:n])) {
			return violation(fmt.Sprintf("client preface: %q", preface[:n]))
		}
		return err
	}
	if string(preface) != wire.ClientPreface {
		return violation(fmt.Sprintf("client preface: %q", preface))
	}
	dec := hpack.NewDecoder(wire.HeaderTableSize, nil)
	var open *Frame // HEADERS whose END_HEADERS has not come yet
	for {
		f, err := p.readFrame(br)
		if err != nil {
			return err
		}
		line := "-> " + f.Text(f.Payload)
		if f.Type == wire.Settings && f.Flags.Has(wire.Ack) {
			if size, ok := p.recvSettingsAck(); ok {
				dec.SetAllowedMaxDynamicTableSize(size)
			}
		}
		if f.Type == wire.Headers || f.Type == wire.Continuation || open != nil {
			if open, err = joinBlock(open, f); err != nil {
				return err
			}
			if !f.Flags.Has(wire.EndHeaders) {
				p.record(line)
				continue
			}
			f, open = *open, nil
			if f.Headers.Fields, err = dec.DecodeFull(f.Headers.Block); err != nil {
				return violation(fmt.Sprintf("%v: %v", f.FrameHeader, err))
			}
			line += fieldLines(f.Headers.Fields)
		}
		p.record(line)
		if err := p.recv(f); err != nil {
			return err
		}
	}
}

// readFrame reads one frame and checks its header.
func (p *Peer) readFrame(br *bufio.Reader) (Frame, error) {
	var octets [wire.HeaderLen]byte
	if _, err := io.ReadFull(br, octets[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{FrameHeader: wire.ParseFrameHeader(octets[:])}
	p.mu.Lock()
	most := p.books.announced.most(wire.SettingMaxFrameSize)
	p.mu.Unlock()
	if err := f.Check(int(most)); err != nil {
		return Frame{}, violation(fmt.Sprintf("%v: %v", f.FrameHeader, err))
	}
	f.Payload = make([]byte, f.Length)
	if _, err := io.ReadFull(br, f.Payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, fmt.Errorf("within %v: %w", f.FrameHeader, err)
	}
	return f, nil
}

// joinBlock begins a header block with f, or adds f to the open block.
func joinBlock(open *Frame, f Frame) (*Frame, error) {
	// RFC 9113 §6.10: only CONTINUATION frames of the same stream may follow a HEADERS frame
	// without END_HEADERS.
	follows := f.Type == wire.Continuation && open != nil && f.StreamID == open.StreamID
	if begins := f.Type == wire.Headers && open == nil; !begins && !follows {
		return nil, violation(fmt.Sprintf("%v between HEADERS and END_HEADERS, or without them",
			f.FrameHeader))
	}
	block, err := f.Block(f.Payload)
	if err != nil {
		return nil, violation(err.Error())
	}
	if open == nil {
		f.Headers = &Headers{FrameHeader: f.FrameHeader, EndStream: f.Flags.Has(wire.EndStream)}
		open = &f
	}
	open.Headers.Block = append(open.Headers.Block, block...)
	open.Headers.Frames = append(open.Headers.Frames, f.FrameHeader)
	return open, nil
}

// recvSettingsAck records an acknowledgment of SETTINGS, and returns the table size then.
func (p *Peer) recvSettingsAck() (tableSize uint32, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.books.announced.ack()
}

// recv records a whole frame in the books and queues it for the next Want.
func (p *Peer) recv(f Frame) error {
	p.mu.Lock()
	err := p.books.recv(f)
	answer := p.autoPing && f.Type == wire.Ping && !f.Flags.Has(wire.Ack)
	ack := p.autoAck && f.Type == wire.Settings && !f.Flags.Has(wire.Ack)
	if err == nil && !answer && !ack {
		p.queue = append(p.queue, f)
		p.changedLocked()
	}
	p.mu.Unlock()
	if answer {
		p.WritePing(wire.Ack, wire.ParsePing(f.Payload))
	}
	if ack {
		p.WriteSettingsAck()
	}
	return err
}

// errSilent is the error of await if nothing came in time.
var errSilent = errors.New("nothing")

// await calls take, with p.mu held, each time the queue has changed, until take returns true. If it
// does not, await returns the reason: the end of the connection, a violation, or errSilent.
func (p *Peer) await(take func() bool) error {
	timeout := time.NewTimer(wantTimeout)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		ok, err, changed := take(), p.err, p.changed
		p.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-timeout.C:
			return errSilent
		}
	}
}

// Next takes the next frame, whatever it is. The error is the end of the connection, a violation,
// or that nothing came.
func (p *Peer) Next() (f Frame, err error) {
	err = p.await(func() bool {
		for len(p.queue) > 0 {
			f, p.queue = p.queue[0], p.queue[1:]
			if !p.ignored[f.Type] {
				return true
			}
		}
		return false
	})
	return f, err
}

// Serve plays a server on another goroutine, until the connection ends. It sends settings,
// acknowledges the client's, and calls f for each request, in the order in which they arrive.
func (p *Peer) Serve(f func(stream uint32, h Headers), settings ...wire.Setting) {
	go func() {
		p.WriteSettings(settings...)
		for {
			frame, err := p.Next()
			switch {
			case err == errSilent:
			case err != nil:
				return
			case frame.Type == wire.Settings && !frame.Flags.Has(wire.Ack):
				p.WriteSettingsAck()
			case frame.Type == wire.Headers:
				f(frame.StreamID, *frame.Headers)
			}
		}
	}()
}

// unread puts a frame that Next has returned back into the queue.
func (p *Peer) unread(f Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = slices.Insert(p.queue, 0, f)
}

// books keep what each side may send. A window is the difference of two sums, all that was granted
// and all that was sent, so a change of the initial size needs no change for each stream.
type books struct {
	client    map[wire.SettingID]uint32 // the client's settings, with the defaults
	granted   map[uint32]int64          // WINDOW_UPDATE increments of the client, by stream
	sent      map[uint32]int64          // DATA of the peer, by stream
	announced announced                 // the peer's settings
	allowed   map[uint32]int64          // WINDOW_UPDATE increments of the peer, by stream
	received  map[uint32]int64          // DATA of the client, by stream
}

// newBooks returns the books of a new connection.
func newBooks() books {
	return books{
		client:    maps.Clone(defaults),
		granted:   map[uint32]int64{},
		sent:      map[uint32]int64{},
		announced: announced{acked: maps.Clone(defaults)},
		allowed:   map[uint32]int64{},
		received:  map[uint32]int64{},
	}
}

// defaults are the settings before any SETTINGS.
var defaults = map[wire.SettingID]uint32{
	wire.SettingHeaderTableSize:   wire.HeaderTableSize,
	wire.SettingInitialWindowSize: wire.InitialWindow,
	wire.SettingMaxFrameSize:      wire.MinMaxFrameSize,
}

// credit returns what the peer may still send on the stream, or on the connection if it is 0.
func (b *books) credit(stream uint32) int64 {
	initial := int64(wire.InitialWindow)
	if stream != 0 {
		initial = int64(b.client[wire.SettingInitialWindowSize])
	}
	return initial + b.granted[stream] - b.sent[stream]
}

// recv records a frame of the client.
func (b *books) recv(f Frame) error {
	switch f.Type {
	case wire.Settings:
		for s := range wire.ParseSettings(f.Payload) {
			if err := s.Check(); err != nil {
				return violation(err.Error())
			}
			b.client[s.ID] = s.Value
		}
	case wire.WindowUpdate:
		increment := wire.ParseWindowUpdate(f.Payload)
		b.granted[f.StreamID] += int64(increment)
		// RFC 9113 §6.9.1: a sender MUST NOT allow a flow-control window to exceed 2^31-1.
		if credit := b.credit(f.StreamID); increment == 0 || credit > wire.MaxWindow {
			return violation(fmt.Sprintf("%s makes a window of %d", f, credit))
		}
	case wire.Data:
		b.received[0] += int64(f.Length)
		b.received[f.StreamID] += int64(f.Length)
		// RFC 9113 §6.9: a sender MUST NOT send a flow-controlled frame that exceeds either window.
		stream := int64(b.announced.most(wire.SettingInitialWindowSize)) + b.allowed[f.StreamID]
		if f.Length > 0 && (b.received[0] > wire.InitialWindow+b.allowed[0] ||
			b.received[f.StreamID] > stream) {
			return violation(fmt.Sprintf("%v exceeds a window: "+
				"%d of %d on the stream, %d of %d on the connection", f.FrameHeader,
				b.received[f.StreamID], stream, b.received[0], wire.InitialWindow+b.allowed[0]))
		}
	case wire.PushPromise:
		return violation(fmt.Sprintf("%v by a client", f.FrameHeader))
	}
	return nil
}

// send records a frame of the peer, which may be malformed.
func (b *books) send(h wire.FrameHeader, payload []byte) {
	switch {
	case h.Type == wire.Settings && !h.Flags.Has(wire.Ack):
		b.announced.pending = append(b.announced.pending, slices.Collect(wire.ParseSettings(payload)))
	case h.Type == wire.WindowUpdate && len(payload) == 4:
		b.allowed[h.StreamID] += int64(wire.ParseWindowUpdate(payload))
	case h.Type == wire.Data:
		b.sent[0] += int64(h.Length)
		b.sent[h.StreamID] += int64(h.Length)
	}
}

// announced is the peer's settings. Until the client acknowledges a change, it may use the old or
// the new value.
type announced struct {
	acked   map[wire.SettingID]uint32 // those in force
	pending [][]wire.Setting
}

// most returns the largest value that the client may use for a setting.
func (a *announced) most(id wire.SettingID) uint32 {
	most := a.acked[id]
	for _, settings := range a.pending {
		for _, s := range settings {
			if s.ID == id {
				most = max(most, s.Value)
			}
		}
	}
	return most
}

// ack puts the oldest pending SETTINGS in force, and returns the HPACK table size then. ok is false
// if none is pending.
func (a *announced) ack() (tableSize uint32, ok bool) {
	if len(a.pending) == 0 {
		return 0, false
	}
	for _, s := range a.pending[0] {
		a.acked[s.ID] = s.Value
	}
	a.pending = a.pending[1:]
	return a.acked[wire.SettingHeaderTableSize], true
}
