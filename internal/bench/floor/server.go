package floor

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// Sizes of the server's buffers. They are small, so that 10,000 connections fit into memory.
const (
	serverSocket = 16 << 10
	serverRecord = 16 << 10
	serverOut    = 64 << 10 // it writes when it has so much
	serverWindow = 1<<31 - 1
	serverSlots  = 20000
)

// zeros is the content of bodies.
var zeros [frameSize]byte

// Serve accepts connections at the listener until it is closed, and serves them. The response
// depends on the request:
//
//   - A POST with a content type of gRPC gets back the DATA that it sends, and trailers of success.
//   - /fields?n=N gets N fields and no body.
//   - /frames?size=S&n=N gets N DATA frames of S bytes each. All that the windows allow is sent at
//     once, without a flush per frame.
//   - /0 gets no body, and all others get 1 KiB.
func Serve(listener net.Listener, config *tls.Config) error {
	for {
		nc, err := listener.Accept()
		if err != nil {
			return err
		}
		go serve(nc, config)
	}
}

// A serverConn is a connection of the server. One goroutine reads and writes.
type serverConn struct {
	socket  *socket
	tls     *tls.Conn
	reader  reader
	out     []byte
	window  int64 // of the connection, for sending
	initial int64 // window of a new stream
	unread  int   // bytes of DATA since the last WINDOW_UPDATE
	dec     *hpack.Decoder
	enc     *hpack.Encoder
	block   bytes.Buffer
	fields  []byte // of the request with a CONTINUATION still to come
	request request
	streams map[uint32]*sending // streams that are not finished
}

// A request is what the server looks at in a request.
type request struct{ path, contentType string }

// A sending is what a stream has still to send.
type sending struct {
	window int64
	size   int // of each DATA frame
	left   int // how many of these frames are to be sent
	echo   bool
	ended  bool   // the request has ended
	back   []byte // DATA to send back
}

// serve serves one connection until it ends.
func serve(nc net.Conn, config *tls.Config) {
	defer nc.Close()
	c := &serverConn{socket: newSocket(nc, serverSocket), window: 65535, initial: 65535,
		streams: map[uint32]*sending{}}
	config = config.Clone()
	config.DynamicRecordSizingDisabled = true
	c.tls = tls.Server(c.socket, config)
	if c.tls.Handshake() != nil {
		return
	}
	c.reader = newReader(c.tls, serverRecord)
	c.enc = hpack.NewEncoder(&c.block)
	c.dec = hpack.NewDecoder(4096, c.field)
	if c.preface() == nil {
		c.frames() // its error is the end of the connection
	}
}

// preface reads the client's preface and sends SETTINGS.
func (c *serverConn) preface() error {
	if _, err := io.ReadFull(c.tls, make([]byte, len(wire.ClientPreface))); err != nil {
		return err
	}
	c.out = wire.AppendSettings(c.out,
		wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: serverSlots},
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: serverWindow})
	c.out = wire.AppendWindowUpdate(c.out, 0, serverWindow-65535)
	return c.write()
}

// write writes all frames of out, in as few calls of the kernel as possible.
func (c *serverConn) write() error {
	if len(c.out) == 0 {
		return nil
	}
	c.socket.hold = true
	_, err := c.tls.Write(c.out)
	c.out = c.out[:0]
	c.socket.hold = false
	if err != nil {
		return err
	}
	return c.socket.flush()
}

// frames reads frames until there is an error, which it returns. It writes when there is nothing
// more to read.
func (c *serverConn) frames() error {
	for {
		f, ok := c.reader.next()
		if !ok {
			if len(c.socket.unread) == 0 {
				if err := c.write(); err != nil {
					return err
				}
			}
			if err := c.reader.fill(); err != nil {
				return err
			}
			continue
		}
		if err := c.receive(f); err != nil {
			return err
		}
		if len(c.out) >= serverOut {
			if err := c.write(); err != nil {
				return err
			}
		}
	}
}

// receive handles a frame.
func (c *serverConn) receive(f frame) error {
	switch f.Type {
	case wire.Headers, wire.Continuation:
		return c.headers(f)
	case wire.Data:
		return c.data(f)
	case wire.WindowUpdate:
		return c.credit(f)
	case wire.RSTStream:
		delete(c.streams, f.StreamID)
	case wire.GoAway:
		return io.EOF
	case wire.Settings:
		if !f.Flags.Has(wire.Ack) {
			c.settings(f)
			c.out = wire.AppendSettingsAck(c.out)
		}
	case wire.Ping:
		if !f.Flags.Has(wire.Ack) {
			c.out = wire.AppendPing(c.out, wire.Ack, wire.ParsePing(f.payload))
		}
	}
	return nil
}

// settings takes over the client's settings.
func (c *serverConn) settings(f frame) {
	for s := range wire.ParseSettings(f.payload) {
		switch s.ID {
		case wire.SettingHeaderTableSize:
			c.enc.SetMaxDynamicTableSize(min(s.Value, 4096))
		case wire.SettingInitialWindowSize:
			for _, s2 := range c.streams {
				s2.window += int64(s.Value) - c.initial
			}
			c.initial = int64(s.Value)
		}
	}
}

// field keeps what the server looks at in a field.
func (c *serverConn) field(f hpack.HeaderField) {
	switch f.Name {
	case ":path":
		c.request.path = f.Value
	case "content-type":
		c.request.contentType = f.Value
	}
}

// headers takes HEADERS or CONTINUATION.
func (c *serverConn) headers(f frame) error {
	p := f.payload
	if f.Type == wire.Headers {
		var err error
		if p, err = f.Block(p); err != nil {
			return err
		}
		c.request, c.fields = request{}, c.fields[:0]
		c.streams[f.StreamID] = &sending{window: c.initial, ended: f.Flags.Has(wire.EndStream)}
	}
	c.fields = append(c.fields, p...)
	if !f.Flags.Has(wire.EndHeaders) {
		return nil
	}
	if _, err := c.dec.Write(c.fields); err != nil {
		return err
	}
	if err := c.dec.Close(); err != nil {
		return err
	}
	return c.begin(f.StreamID, c.streams[f.StreamID])
}

// begin decides what the stream sends, and begins that.
func (c *serverConn) begin(id uint32, s *sending) error {
	r := c.request
	if strings.HasPrefix(r.contentType, "application/grpc") {
		s.echo = true
		c.section(id, 0, [][2]string{{":status", "200"}, {"content-type", r.contentType}})
		return nil
	}
	path, query, _ := strings.Cut(r.path, "?")
	values, _ := url.ParseQuery(query)
	number := func(name string) int {
		n, _ := strconv.Atoi(values.Get(name))
		return n
	}
	fields := [][2]string{{":status", "200"}, {"server", "floor"}, {"date", "Thu, 01 Jan 2026 00:00:00 GMT"}}
	switch path {
	case "/0":
	case "/fields":
		for i := range number("n") {
			fields = append(fields,
				[2]string{fmt.Sprintf("x-bench-%03d", i), fmt.Sprintf("the value of field %d", i)})
		}
	case "/frames":
		s.size, s.left = min(number("size"), frameSize), number("n")
	default:
		s.size, s.left = 1<<10, 1
		fields = append(fields, [2]string{"content-length", "1024"})
	}
	if s.left == 0 {
		delete(c.streams, id)
		c.section(id, wire.EndStream, fields)
		return nil
	}
	c.section(id, 0, fields)
	return c.send(id, s)
}

// section appends a field section, in as many frames as it needs.
func (c *serverConn) section(id uint32, end wire.Flags, fields [][2]string) {
	c.block.Reset()
	for _, f := range fields {
		c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	for kind, b := wire.Headers, c.block.Bytes(); ; kind, end = wire.Continuation, 0 {
		h := wire.FrameHeader{Length: min(len(b), frameSize), Type: kind, Flags: end, StreamID: id}
		if h.Length == len(b) {
			h.Flags |= wire.EndHeaders
		}
		c.out = append(wire.AppendFrameHeader(c.out, h), b[:h.Length]...)
		if b = b[h.Length:]; len(b) == 0 {
			return
		}
	}
}

// data takes DATA.
func (c *serverConn) data(f frame) error {
	if c.unread += f.Length; c.unread > 1<<28 {
		c.out = wire.AppendWindowUpdate(c.out, 0, c.unread)
		c.unread = 0
	}
	s := c.streams[f.StreamID]
	if s == nil {
		return nil
	}
	s.ended = f.Flags.Has(wire.EndStream)
	if s.echo {
		s.back = append(s.back, f.payload...)
	}
	return c.send(f.StreamID, s)
}

// credit takes WINDOW_UPDATE.
func (c *serverConn) credit(f frame) error {
	n := int64(wire.ParseWindowUpdate(f.payload))
	if f.StreamID != 0 {
		if s := c.streams[f.StreamID]; s != nil {
			s.window += n
			return c.send(f.StreamID, s)
		}
		return nil
	}
	c.window += n
	for id, s := range c.streams {
		if err := c.send(id, s); err != nil {
			return err
		}
	}
	return nil
}

// send sends what the stream's and the connection's windows allow.
func (c *serverConn) send(id uint32, s *sending) error {
	if s.echo {
		c.sendBack(id, s)
		return nil
	}
	for s.left > 0 && int64(s.size) <= min(s.window, c.window) {
		s.left--
		flags := wire.Flags(0)
		if s.left == 0 {
			flags = wire.EndStream
			delete(c.streams, id)
		}
		s.window -= int64(s.size)
		c.window -= int64(s.size)
		c.out = wire.AppendData(c.out, id, flags, zeros[:s.size])
		if len(c.out) >= serverOut {
			if err := c.write(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendBack sends what the client has sent. When that has ended, it sends trailers.
func (c *serverConn) sendBack(id uint32, s *sending) {
	for {
		n := int(min(int64(len(s.back)), s.window, c.window, frameSize))
		if n <= 0 {
			break
		}
		s.window -= int64(n)
		c.window -= int64(n)
		c.out = wire.AppendData(c.out, id, 0, s.back[:n])
		s.back = append(s.back[:0], s.back[n:]...)
	}
	if s.ended && len(s.back) == 0 {
		delete(c.streams, id)
		c.section(id, wire.EndStream, [][2]string{{"grpc-status", "0"}})
	}
}
