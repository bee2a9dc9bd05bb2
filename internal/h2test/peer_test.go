package h2test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A client is a client under test that sends what the test tells it to send.
type client struct {
	*Conn
	t     *testing.T
	enc   *hpack.Encoder
	block bytes.Buffer
}

// newClient returns a client and the server's end of its connection.
func newClient(t *testing.T) (*client, *Conn) {
	conn, server := Pipe()
	c := &client{Conn: conn, t: t}
	c.enc = hpack.NewEncoder(&c.block)
	t.Cleanup(func() { conn.Close() })
	return c, server
}

// withPeer runs f in a bubble, after the handshake.
func withPeer(t *testing.T, f func(t *testing.T, c *client, peer *Peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, server := newClient(t)
		peer := NewPeer(t, server)
		c.preface()
		go func() {
			io.ReadFull(c, make([]byte, 2*wire.HeaderLen)) // SETTINGS and an acknowledgment
			c.send(wire.AppendSettingsAck(nil))
		}()
		peer.Handshake()
		f(t, c, peer)
	})
}

// A fakeT is the testing.TB of a test that is expected to fail.
type fakeT struct {
	testing.TB
	message  string
	cleanups []func()
}

func (f *fakeT) Helper()            {}
func (f *fakeT) Cleanup(end func()) { f.cleanups = append(f.cleanups, end) }
func (f *fakeT) Errorf(format string, args ...any) {
	f.message += fmt.Sprintf(format, args...)
}
func (f *fakeT) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

// wantFailure runs script in a bubble, after the client's preface. It requires that the script
// fails the test with a message that contains all of wanted.
func wantFailure(t *testing.T, script func(c *client, peer *Peer), wanted ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Helper()
		c, server := newClient(t)
		fake := &fakeT{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			peer := NewPeer(fake, server)
			c.preface()
			peer.WantPreface("the preface")
			script(c, peer)
		}()
		<-done
		for _, end := range fake.cleanups {
			end()
		}
		for _, s := range wanted {
			if !strings.Contains(fake.message, s) {
				t.Errorf("the failure lacks %q:\n%s", s, fake.message)
			}
		}
		if fake.message == "" {
			t.Error("no failure")
		}
	})
}

func (c *client) preface(settings ...wire.Setting) {
	c.send(wire.AppendSettings([]byte(wire.ClientPreface), settings...))
}

func (c *client) send(octets []byte) {
	if _, err := c.Write(octets); err != nil {
		c.t.Errorf("client: %v", err)
	}
}

func (c *client) frame(h wire.FrameHeader, payload []byte) {
	h.Length = len(payload)
	c.send(append(wire.AppendFrameHeader(nil, h), payload...))
}

func (c *client) encode(fields ...hpack.HeaderField) []byte {
	c.block.Reset()
	for _, f := range fields {
		c.enc.WriteField(f)
	}
	return c.block.Bytes()
}

func (c *client) headers(stream uint32, flags wire.Flags, fields ...hpack.HeaderField) {
	c.frame(wire.FrameHeader{Type: wire.Headers, Flags: flags | wire.EndHeaders, StreamID: stream},
		c.encode(fields...))
}

// received closes the peer and returns, in textual form, the frames that the peer has sent since
// the handshake.
func (c *client) received(peer *Peer) (texts []string) {
	peer.Close()
	all, err := io.ReadAll(c)
	if err != nil {
		c.t.Fatal(err)
	}
	dec := hpack.NewDecoder(wire.HeaderTableSize, nil)
	for len(all) >= wire.HeaderLen {
		h := wire.ParseFrameHeader(all)
		payload := all[wire.HeaderLen : wire.HeaderLen+h.Length]
		all = all[wire.HeaderLen+h.Length:]
		text := h.Text(payload)
		if h.Type == wire.Headers && h.Flags.Has(wire.EndHeaders) {
			fields, err := dec.DecodeFull(payload)
			if err != nil {
				c.t.Fatal(err)
			}
			text += fieldLines(fields)
		}
		texts = append(texts, text)
	}
	return texts
}

// get is the fields of a GET request.
var get = []hpack.HeaderField{
	{Name: ":method", Value: "GET"},
	{Name: ":path", Value: "/"},
	{Name: "cookie", Value: "a=b", Sensitive: true},
}

func TestExchange(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		c.headers(1, wire.EndStream, get...)
		h := peer.WantHeaders("the request", 1, ":path: /", ":method: GET")
		if !h.EndStream || !h.Fields[2].Sensitive || h.Get("cookie") != "a=b" || h.Get("none") != "" {
			t.Errorf("%+v", h)
		}
		peer.WriteHeaders(1, 0, ":status: 200", "x-time: 12:30", "x-empty:")
		peer.WriteData(1, 0, []byte("hello"))
		peer.WriteTrailers(1, "x-sum: 5")
		peer.WantIdle("and nothing else")
		want := []string{
			"HEADERS stream=1 len=22 END_HEADERS\n\t:status: 200\n\tx-time: 12:30\n\tx-empty: ",
			"DATA stream=1 len=5",
			"HEADERS stream=1 len=8 END_STREAM END_HEADERS\n\tx-sum: 5",
		}
		if got := c.received(peer); !slices.Equal(got, want) {
			t.Errorf("the client got %q", got)
		}
	})
}

func TestHandshakeLeavesRequestsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := newClient(t)
		peer := NewPeer(t, server)
		go func() {
			time.Sleep(10 * time.Millisecond)
			b := wire.AppendSettings([]byte(wire.ClientPreface), wire.Setting{ID: wire.SettingEnablePush})
			b = wire.AppendWindowUpdate(b, 0, 1000)
			c.send(wire.AppendPing(b, 0, [8]byte{1}))
			c.headers(1, wire.EndStream, get...)
			time.Sleep(time.Second)
			c.send(wire.AppendSettingsAck(nil))
			c.send(wire.AppendWindowUpdate(nil, 0, 2000))
		}()
		settings := peer.Handshake(wire.Setting{ID: wire.SettingMaxFrameSize, Value: 20000})
		if !slices.Equal(settings, []wire.Setting{{ID: wire.SettingEnablePush}}) {
			t.Errorf("settings %v", settings)
		}
		peer.WantPing("before the request", 0)
		peer.WantHeaders("the request", 1)
		peer.WantWindowUpdate("only the first belongs to the handshake", 0, 2000)
		peer.WantIdle("and nothing else")
	})
}

func TestEveryWant(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		c.headers(3, 0, get[:2]...)
		peer.WantHeadersExactly("in order", 3, ":method: GET", ":path: /")
		c.send(wire.AppendData(nil, 3, 0, []byte("hello")))
		if p := peer.WantData("data", 3, 0, 5); string(p) != "hello" {
			t.Errorf("data %q", p)
		}
		c.send(wire.AppendData(nil, 3, 0, []byte("one")))
		c.headers(3, wire.EndStream, hpack.HeaderField{Name: "x-sum", Value: "1"})
		peer.WantBody("until the trailers", 3, []byte("one"))
		peer.WantHeaders("the trailers", 3, "x-sum: 1")
		c.send(wire.AppendData(nil, 5, 0, []byte("one")))
		c.send(wire.AppendData(nil, 5, wire.EndStream, []byte("two")))
		peer.WantBody("until END_STREAM", 5, []byte("onetwo"))
		c.send(wire.AppendRSTStream(nil, 5, wire.Cancel))
		peer.WantRSTStream("reset", 5, wire.Cancel)
		c.send(wire.AppendWindowUpdate(nil, 5, 7))
		peer.WantWindowUpdate("window", 5, 7)
		c.send(wire.AppendPing(nil, wire.Ack, [8]byte{1, 2}))
		if data := peer.WantPing("ping", wire.Ack); data != [8]byte{1, 2} {
			t.Errorf("ping %v", data)
		}
		c.send(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingMaxFrameSize, Value: 1 << 15}))
		if f := peer.WantFrame("settings", wire.Settings); f.Length != 6 {
			t.Errorf("settings %v", f)
		}
		c.send(wire.AppendSettingsAck(nil))
		peer.WantSettingsAck("ack")
		c.send(wire.AppendGoAway(nil, 2, wire.NoError, "bye"))
		if debug := peer.WantGoAway("goaway", 2, wire.NoError); debug != "bye" {
			t.Errorf("debug %q", debug)
		}
		c.Close()
		peer.WantClosed("the end")
	})
}

func TestEveryWrite(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		peer.WriteHeadersSplit(1, wire.EndStream, 8, ":status: 200", "server: scripted")
		peer.WritePaddedData(1, wire.EndStream, []byte("hello"), 10)
		peer.WritePushPromise(1, 2, ":method: GET")
		peer.WriteRSTStream(1, wire.Cancel)
		peer.WriteGoAway(1, wire.NoError, "bye")
		peer.WriteWindowUpdate(0, 9)
		peer.WritePing(0, [8]byte{1})
		peer.WriteSettings(wire.Setting{ID: wire.SettingEnablePush, Value: 1})
		peer.WriteSettingsAck()
		peer.WriteFrame(wire.FrameHeader{Length: 3, Type: 0xee, Flags: 0x80}, []byte("x"))
		peer.WriteRaw([]byte("yz"))
		peer.WriteRaw(append(wire.AppendPing(nil, 0, [8]byte{2}), 0, 0))
		want := []string{
			"HEADERS stream=1 len=8 END_STREAM",
			"CONTINUATION stream=1 len=1 END_HEADERS",
			"DATA stream=1 len=16 END_STREAM PADDED",
			"PUSH_PROMISE stream=1 len=5 END_HEADERS promised=2",
			"RST_STREAM stream=1 len=4 code=CANCEL",
			"GOAWAY len=11 last=1 code=NO_ERROR debug=\"bye\"",
			"WINDOW_UPDATE len=4 increment=9",
			"PING len=8 data=0100000000000000",
			"SETTINGS len=6 ENABLE_PUSH=1",
			"SETTINGS len=0 ACK",
			"FRAME_0xee len=3 flags=0x80",
			"PING len=8 data=0200000000000000",
		}
		log := peer.Log()
		for _, line := range want {
			if !strings.Contains(log, "<- "+line) {
				t.Errorf("the log lacks %s", line)
			}
		}
		if got := c.received(peer); !slices.Equal(got, want) {
			t.Errorf("the client got\n%s", strings.Join(got, "\n"))
		}
	})
}

func TestBatchIsOneWrite(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		server := peer.conn.(*Conn)
		before := server.Writes()
		peer.Batch(func() {
			peer.WriteHeadersSplit(1, 0, 1, ":status: 200", "server: scripted")
			peer.WriteData(1, wire.EndStream, nil)
		})
		if n := server.Writes() - before; n != 1 {
			t.Errorf("%d writes", n)
		}
		peer.WritePing(0, [8]byte{})
		if n := server.Writes() - before; n != 2 {
			t.Errorf("%d writes with the one after the batch", n)
		}
	})
}

func TestContinuationIsJoined(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		block := c.encode(get...)
		c.frame(wire.FrameHeader{Type: wire.Headers, Flags: wire.EndStream, StreamID: 1}, block[:1])
		c.frame(wire.FrameHeader{Type: wire.Continuation, StreamID: 1}, nil)
		peer.WantIdle("the block is not complete")
		c.frame(wire.FrameHeader{Type: wire.Continuation, Flags: wire.EndHeaders, StreamID: 1}, block[1:])
		h := peer.WantHeaders("the request", 1, ":method: GET", ":path: /", "cookie: a=b")
		if !h.EndStream || len(h.Frames) != 3 || !bytes.Equal(h.Block, block) {
			t.Errorf("%+v", h)
		}
	})
}

func TestIgnoreAndAutoPing(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		peer.Ignore(wire.WindowUpdate, wire.Priority)
		peer.AutoPing()
		c.send(wire.AppendWindowUpdate(nil, 0, 1))
		c.send(wire.AppendPing(nil, 0, [8]byte{7}))
		peer.WantIdle("all of this is of no interest")
		c.send(wire.AppendWindowUpdate(nil, 0, 1))
		c.send(wire.AppendPing(nil, wire.Ack, [8]byte{8}))
		peer.WantPing("an acknowledgment is not answered", wire.Ack)
		if got := c.received(peer); !slices.Equal(got, []string{"PING len=8 ACK data=0700000000000000"}) {
			t.Errorf("the client got %q", got)
		}
	})
}

func TestCreditBooks(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		want := func(reason string, conn, stream int) {
			t.Helper()
			synctest.Wait()
			if peer.Credit(0) != conn || peer.Credit(1) != stream {
				t.Errorf("%s: %d and %d, want %d and %d", reason, peer.Credit(0), peer.Credit(1), conn,
					stream)
			}
		}
		want("at first", 65535, 65535)
		peer.WritePaddedData(1, 0, make([]byte, 90), 9)
		want("padding counts", 65435, 65435)
		c.send(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 10}))
		want("settings move streams only", 65435, -90)
		c.send(wire.AppendWindowUpdate(nil, 0, 65))
		c.send(wire.AppendWindowUpdate(nil, 1, 100))
		want("granted", 65500, 10)
	})
}

func TestPeerKeepsClientTableSize(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		c.send(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingHeaderTableSize, Value: 0}))
		peer.WantFrame("the change", wire.Settings)
		block := peer.EncodeBlock("x-a: b")
		if block[0] != 0x20 { // RFC 7541 §6.3: size update to 0
			t.Errorf("block %x", block)
		}
	})
}

func TestClientMayUseAnnouncedSettings(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		peer.WriteSettings(
			wire.Setting{ID: wire.SettingMaxFrameSize, Value: 65535},
			wire.Setting{ID: wire.SettingHeaderTableSize, Value: 8192},
			wire.Setting{ID: wire.SettingInitialWindowSize, Value: 70000})
		peer.WriteWindowUpdate(0, 10000)
		c.send(wire.AppendSettingsAck(nil))
		peer.WantSettingsAck("ack")
		c.enc.SetMaxDynamicTableSizeLimit(8192)
		c.enc.SetMaxDynamicTableSize(8192)
		c.headers(1, 0, get...)
		peer.WantHeaders("with a larger table", 1)
		c.send(wire.AppendData(nil, 1, 0, make([]byte, 65535)))
		c.send(wire.AppendData(nil, 1, wire.EndStream, make([]byte, 4465)))
		peer.WantBody("a larger window", 1, make([]byte, 70000))
	})
}

func TestWritesToGoneClientAreLogged(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		c.Close()
		peer.WritePing(0, [8]byte{})
		if log := peer.Log(); !strings.Contains(log, "<- PING") || !strings.Contains(log, "broken pipe") {
			t.Errorf("log\n%s", log)
		}
	})
}

func TestWriteToStalledClientGivesUp(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		peer.conn.(*Conn).SetWriteBuffer(0)
		c.send(wire.AppendPing(nil, 0, [8]byte{}))
		peer.WritePing(0, [8]byte{})
		if log := peer.Log(); !strings.Contains(log, "i/o timeout") {
			t.Errorf("log\n%s", log)
		}
		peer.WantPing("reading went on", 0)
	})
}

func TestNextReportsTheEnd(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		c.send(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 8, Type: wire.Ping}))
		c.Close()
		if f, err := peer.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v, %v", f, err)
		}
		peer.WantClosed("a cut frame is a close too")
	})
}

func TestBreakWithinFrameIsReported(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		peer.conn.(*Conn).BreakReadAfter(wire.HeaderLen+1, errBoom)
		c.send(wire.AppendPing(nil, 0, [8]byte{}))
		if f, err := peer.Next(); !errors.Is(err, errBoom) {
			t.Errorf("%v, %v", f, err)
		}
	})
}

func TestEncoderWritesToNextBlock(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		peer.Encoder().WriteField(hpack.HeaderField{Name: "set-cookie", Value: strings.Repeat("a", 201),
			Sensitive: true})
		block := peer.EncodeBlock(":status: 200")
		fields, err := hpack.NewDecoder(wire.HeaderTableSize, nil).DecodeFull(block)
		if err != nil {
			t.Fatal(err)
		}
		want := "\n\tset-cookie: " + strings.Repeat("a", 200) + "… (never indexed)\n\t:status: 200"
		if got := fieldLines(fields); got != want {
			t.Errorf("the block says %s", got)
		}
	})
}

// A failure tells the reason, what was wanted and what came instead, and shows the exchange.
func TestFailureMessage(t *testing.T) {
	wantFailure(t, func(c *client, peer *Peer) {
		peer.WriteSettings()
		c.headers(1, wire.EndStream, get...)
		peer.WantHeaders("the request", 3, ":method: GET")
	}, `the request:
want HEADERS stream=3 with at least
	:method: GET
got  HEADERS stream=1 len=8 END_STREAM END_HEADERS
	:method: GET
	:path: /
	cookie: a=b (never indexed)
the last frames, -> by the client:
-> SETTINGS len=0
<- SETTINGS len=0
-> HEADERS stream=1 len=8 END_STREAM END_HEADERS
	:method: GET
	:path: /
	cookie: a=b (never indexed)`)
}

func TestEveryWantCanFail(t *testing.T) {
	ping := func(c *client) { c.send(wire.AppendPing(nil, 0, [8]byte{})) }
	data := func(c *client) { c.send(wire.AppendData(nil, 1, wire.EndStream, []byte("hello"))) }
	headers := func(c *client) { c.headers(1, wire.EndStream, get...) }
	for _, test := range []struct {
		name string
		sent func(*client)
		want func(*Peer)
		text string
	}{
		{"preface", ping, func(p *Peer) { p.WantPreface("why") },
			"want the client preface and SETTINGS\ngot  PING len=8"},
		{"frame", ping, func(p *Peer) { p.WantFrame("why", wire.Data) }, "want DATA\ngot  PING len=8"},
		{"frame instead of headers", ping, func(p *Peer) { p.WantHeaders("why", 1) },
			"want HEADERS stream=1\ngot  PING"},
		{"field", headers, func(p *Peer) { p.WantHeaders("why", 1, "a: b") },
			"with at least\n\ta: b\ngot  HEADERS stream=1"},
		{"exact fields", headers, func(p *Peer) { p.WantHeadersExactly("why", 1, ":method: GET") },
			"with exactly\n\t:method: GET\ngot  HEADERS"},
		{"data length", data, func(p *Peer) { p.WantData("why", 1, wire.EndStream, 6) },
			"want DATA stream=1 len=6 END_STREAM\ngot  DATA stream=1 len=5 END_STREAM"},
		{"data flags", data, func(p *Peer) { p.WantData("why", 1, 0, 5) },
			"want DATA stream=1 len=5\ngot  DATA stream=1 len=5 END_STREAM"},
		{"body", data, func(p *Peer) { p.WantBody("why", 1, []byte("help")) },
			`differ from byte 3 on: want "p", got "lo"`},
		{"body stream", data, func(p *Peer) { p.WantBody("why", 3, []byte("hello")) },
			"want DATA stream=3, 5 bytes in all\ngot  DATA stream=1"},
		{"reset", ping, func(p *Peer) { p.WantRSTStream("why", 1, wire.Cancel) },
			"want RST_STREAM stream=1 len=4 code=CANCEL\ngot  PING"},
		{"window", ping, func(p *Peer) { p.WantWindowUpdate("why", 1, 5) },
			"want WINDOW_UPDATE stream=1 len=4 increment=5\ngot  PING"},
		{"settings ack", ping, func(p *Peer) { p.WantSettingsAck("why") },
			"want SETTINGS len=0 ACK\ngot  PING"},
		{"ping flags", ping, func(p *Peer) { p.WantPing("why", wire.Ack) },
			"want PING len=8 ACK\ngot  PING len=8 data="},
		{"goaway", ping, func(p *Peer) { p.WantGoAway("why", 1, wire.NoError) },
			"want GOAWAY last=1 code=NO_ERROR\ngot  PING"},
		{"frame instead of close", ping, func(p *Peer) { p.WantClosed("why") },
			"want the connection closed\ngot  PING"},
		{"no close", func(*client) {}, func(p *Peer) { p.WantClosed("why") },
			"want the connection closed\ngot  nothing within 10s"},
		{"closed by the test", func(*client) {}, func(p *Peer) { p.Close(); p.WantClosed("why") },
			"want the connection closed\ngot  the end of the connection: read"},
		{"idle", ping, func(p *Peer) { p.WantIdle("why") }, "want an idle connection\ngot  PING"},
		{"idle and closed", func(c *client) { c.Close() }, func(p *Peer) { p.WantIdle("why") },
			"want an idle connection\ngot  the end of the connection: EOF"},
		{"nothing", func(*client) {}, func(p *Peer) { p.WantFrame("why", wire.Data) },
			"want DATA\ngot  nothing within 10s"},
		{"closed", func(c *client) { c.Close() }, func(p *Peer) { p.WantFrame("why", wire.Data) },
			"want DATA\ngot  the end of the connection: EOF"},
		{"no ack", ping, func(p *Peer) { p.Handshake() }, "want the client preface"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantFailure(t, func(c *client, peer *Peer) {
				test.sent(c)
				test.want(peer)
			}, test.text)
		})
	}
}

func TestHandshakeWantsAck(t *testing.T) {
	wantFailure(t, func(c *client, peer *Peer) {
		c.send(wire.AppendSettings(nil))
		peer.Handshake()
	}, "the handshake:\nwant SETTINGS len=0 ACK\ngot  nothing within 10s")
}

// What no client may do fails the test at the next Want of any kind, and also if there is no other
// Want.
func TestViolations(t *testing.T) {
	frame := func(h wire.FrameHeader, payload ...byte) []byte {
		h.Length = len(payload)
		return append(wire.AppendFrameHeader(nil, h), payload...)
	}
	data := func(n int) []byte { return wire.AppendData(nil, 1, 0, make([]byte, n)) }
	for _, test := range []struct {
		name string
		sent []byte
		text string
	}{
		{"frame too large", data(16385), "FRAME_SIZE_ERROR"},
		{"malformed frame", frame(wire.FrameHeader{Type: wire.Ping}, 1), "PING is not 8 bytes long"},
		{"bad block", frame(wire.FrameHeader{Type: wire.Headers, Flags: wire.EndHeaders, StreamID: 1}, 0xff),
			"HEADERS stream=1 len=1 END_HEADERS"},
		{"DATA on stream 0", frame(wire.FrameHeader{Type: wire.Data}), "DATA on stream 0"},
		{"CONTINUATION alone", frame(wire.FrameHeader{Type: wire.Continuation, StreamID: 1}),
			"CONTINUATION stream=1"},
		{"push by the client", frame(wire.FrameHeader{Type: wire.PushPromise, StreamID: 1}, 0, 0, 0, 2),
			"PUSH_PROMISE stream=1"},
		{"window exceeded", bytes.Repeat(data(16384), 4), "exceeds a window: 65536 of 65535"},
		{"empty increment", wire.AppendWindowUpdate(nil, 1, 0), "increment=0"},
		{"window overflow", wire.AppendWindowUpdate(nil, 1, wire.MaxWindow), "increment=2147483647"},
		{"setting out of range", wire.AppendSettings(nil, wire.Setting{ID: wire.SettingEnablePush, Value: 2}),
			"ENABLE_PUSH=2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantFailure(t, func(c *client, peer *Peer) {
				c.send(test.sent)
				if test.name == "window exceeded" {
					peer.Ignore(wire.Data)
				}
				peer.WantClosed("why")
			}, "why:\n", "got  what no client may send: ", test.text)
			wantFailure(t, func(c *client, peer *Peer) {
				c.send(test.sent)
				synctest.Wait()
			}, "the client broke a rule: ", test.text)
		})
	}
}

// RFC 9113 §6.10: CONTINUATION follows HEADERS without END_HEADERS, and no other frame does.
func TestBlockInterrupted(t *testing.T) {
	wantFailure(t, func(c *client, peer *Peer) {
		c.frame(wire.FrameHeader{Type: wire.Headers, StreamID: 1}, nil)
		c.send(wire.AppendPing(nil, 0, [8]byte{}))
		peer.WantIdle("why")
	}, "PING len=8 between HEADERS and END_HEADERS")
}

func TestWrongPreface(t *testing.T) {
	for _, preface := range []string{"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "GET"} {
		synctest.Test(t, func(t *testing.T) {
			c, server := newClient(t)
			fake := &fakeT{}
			peer := NewPeer(fake, server)
			c.send([]byte(preface))
			c.Close()
			if _, err := peer.Next(); !strings.Contains(err.Error(), `client preface: "GET`) {
				t.Error(err)
			}
			fake.cleanups[0]()
			if !strings.Contains(fake.message, "broke a rule") {
				t.Errorf("failure %q", fake.message)
			}
		})
	}
}

func TestLogKeepsTheLast(t *testing.T) {
	withPeer(t, func(t *testing.T, c *client, peer *Peer) {
		for i := range 100 {
			peer.WritePing(0, [8]byte(binary.BigEndian.AppendUint64(nil, uint64(i))))
		}
		lines := strings.Split(peer.Log(), "\n")
		if len(lines) != logSize || lines[0] != "<- PING len=8 data=0000000000000050" {
			t.Errorf("%d lines from %q on", len(lines), lines[0])
		}
	})
}
