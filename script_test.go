// This file holds FuzzScript, in which a peer follows a script of bytes.

package hyper

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

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
	func(id uint32) []byte { return h2test.RawFrame(wire.Priority, 0, id, make([]byte, 4)) },
	func(id uint32) []byte { return h2test.RawFrame(wire.Priority, 0, id, make([]byte, 5)) },
	func(id uint32) []byte { return h2test.RawFrame(0x77, 0xff, id, make([]byte, 70)) },
	func(id uint32) []byte { return h2test.RawFrame(wire.Data, wire.Padded, id, []byte{3, 1, 2}) },
	func(id uint32) []byte { return h2test.RawFrame(wire.Data, 0, 0, []byte{1}) },
	func(id uint32) []byte { return h2test.RawFrame(wire.RSTStream, 0, id, []byte{1}) },
	func(id uint32) []byte { return h2test.RawFrame(wire.WindowUpdate, 0, id, make([]byte, 5)) },
	func(id uint32) []byte { return h2test.RawFrame(wire.Continuation, wire.EndHeaders, id, []byte{0x88}) },
	// The CONTINUATION of these HEADERS never comes.
	func(id uint32) []byte { return h2test.RawFrame(wire.Headers, 0, id, []byte{0x88}) },
	func(id uint32) []byte { return h2test.RawFrame(wire.Headers, wire.EndHeaders, id, []byte{0xff}) },
	func(id uint32) []byte {
		return h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.PriorityFlag|wire.Padded, id,
			[]byte{1, 0, 0, 0, byte(id), 9, 0x88, 0})
	},
	func(id uint32) []byte { return h2test.RawFrame(wire.Settings, wire.Ack, 0, make([]byte, 6)) },
	func(id uint32) []byte {
		return wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 1 << 20, StreamID: id})
	},
	func(id uint32) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") },
	func(id uint32) []byte { return bytes.Repeat(h2test.RawFrame(0x77, 0, 0, nil), 700) },
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
			func(e *scriptExchange) {
				e.s.SetDeadline(time.Now().Add(time.Duration(int8(arg[1])) * time.Second))
			})
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
