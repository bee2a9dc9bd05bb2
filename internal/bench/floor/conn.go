package floor

import (
	"bytes"
	"sync"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A Conn sends GET requests of one path. It has no API of HTTP.
type Conn struct {
	*link
	callers int
	block   []byte
	dec     *hpack.Decoder

	streamsMu sync.Mutex
	streams   map[uint32]*Call
}

// A Call is the memory of one caller's requests. Only one may be under way with it at a time.
type Call struct {
	done chan struct{}
	buf  []byte
	n    int
	err  error
}

// NewCall returns a Call for bodies up to size bytes. What is longer is counted, not kept.
func NewCall(size int) *Call {
	return &Call{done: make(chan struct{}, 1), buf: make([]byte, size)}
}

// Dial connects to addr for requests of path by this many callers. Nil d dials TCP.
func Dial(addr, path string, callers int, d Dialer) (*Conn, error) {
	l, err := dial(addr, d)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	c := &Conn{link: l, callers: 1, streams: map[uint32]*Call{},
		dec: hpack.NewDecoder(4096, func(hpack.HeaderField) {})}
	c.block = block(enc, &buf, addr, path)
	go c.pump()
	if _, err := c.Get(NewCall(0)); err != nil {
		return nil, err
	}
	// The peer's table has the fields now, so this block has their indices.
	c.block = block(enc, &buf, addr, path)
	c.callers = callers
	return c, nil
}

// Close closes the connection.
func (c *Conn) Close() { c.close() }

// Get sends a request, waits for the whole response, and returns the length of its body.
func (c *Conn) Get(call *Call) (int, error) {
	call.n = 0
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, c.err
	}
	id := c.next
	c.next += 2
	c.streamsMu.Lock()
	c.streams[id] = call
	c.streamsMu.Unlock()
	c.out = wire.AppendFrameHeader(c.out, wire.FrameHeader{Length: len(c.block), Type: wire.Headers,
		Flags: wire.EndStream | wire.EndHeaders, StreamID: id})
	c.out = append(c.out, c.block...)
	c.commitUnlocking(c.callers == 1)
	<-call.done
	return call.n, call.err
}

// pump reads frames until the connection ends.
func (c *Conn) pump() {
	err := c.frames()
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	c.streamsMu.Lock()
	for _, call := range c.streams {
		call.err = err
		call.done <- struct{}{}
	}
	clear(c.streams)
	c.streamsMu.Unlock()
	c.close()
}

// frames reads frames until there is an error, which it returns.
func (c *Conn) frames() error {
	for {
		for {
			f, ok := c.reader.next()
			if !ok {
				break
			}
			var err error
			switch f.Type {
			case wire.Data:
				c.data(f)
			case wire.Headers:
				if _, err = c.dec.Write(f.payload); err == nil {
					err = c.dec.Close()
				}
				if f.Flags.Has(wire.EndStream) {
					c.take(f).done <- struct{}{}
				}
			default:
				err = c.control(f)
			}
			if err != nil {
				return err
			}
		}
		c.credit()
		if err := c.reader.fill(); err != nil {
			return err
		}
	}
}

// data copies the payload of DATA to the call.
func (c *Conn) data(f frame) {
	call := c.take(f)
	if call.n < len(call.buf) {
		copy(call.buf[call.n:], f.payload)
	}
	call.n += len(f.payload)
	c.unread += len(f.payload)
	if f.Flags.Has(wire.EndStream) {
		call.done <- struct{}{}
	}
}

// take returns the call of a frame, and removes it if the frame is its last.
func (c *Conn) take(f frame) *Call {
	c.streamsMu.Lock()
	defer c.streamsMu.Unlock()
	call := c.streams[f.StreamID]
	if f.Flags.Has(wire.EndStream) {
		delete(c.streams, f.StreamID)
	}
	return call
}
