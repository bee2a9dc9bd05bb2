package h2test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// WriteSettings sends a SETTINGS frame.
func (p *Peer) WriteSettings(settings ...wire.Setting) {
	p.writeFrames(wire.AppendSettings(nil, settings...))
}

// WriteSettingsAck acknowledges the client's SETTINGS.
func (p *Peer) WriteSettingsAck() { p.writeFrames(wire.AppendSettingsAck(nil)) }

// WriteHeaders sends a header block of "name: value" lines, in a HEADERS frame and as many
// CONTINUATION frames as it needs. flags is wire.EndStream or 0; END_HEADERS is set as needed.
func (p *Peer) WriteHeaders(stream uint32, flags wire.Flags, fields ...string) {
	p.WriteHeadersSplit(stream, flags, wire.MinMaxFrameSize, fields...)
}

// WriteTrailers sends a header block that ends the stream.
func (p *Peer) WriteTrailers(stream uint32, fields ...string) {
	p.WriteHeaders(stream, wire.EndStream, fields...)
}

// WriteHeadersSplit is WriteHeaders with at most n bytes of the block in each frame.
func (p *Peer) WriteHeadersSplit(stream uint32, flags wire.Flags, n int, fields ...string) {
	block := p.EncodeBlock(fields...)
	h := wire.FrameHeader{Type: wire.Headers, Flags: flags, StreamID: stream}
	p.Batch(func() {
		for {
			fragment := block[:min(n, len(block))]
			block = block[len(fragment):]
			h.Length = len(fragment)
			if len(block) == 0 {
				h.Flags |= wire.EndHeaders
			}
			p.WriteFrame(h, fragment)
			if len(block) == 0 {
				return
			}
			h.Type, h.Flags = wire.Continuation, 0
		}
	})
}

// WritePushPromise promises a stream for the request that fields describe.
func (p *Peer) WritePushPromise(parent, promised uint32, fields ...string) {
	payload := binary.BigEndian.AppendUint32(nil, promised)
	payload = append(payload, p.EncodeBlock(fields...)...)
	p.WriteFrame(wire.FrameHeader{
		Length: len(payload), Type: wire.PushPromise, Flags: wire.EndHeaders, StreamID: parent,
	}, payload)
}

// WriteData sends one DATA frame; flags is wire.EndStream or 0.
func (p *Peer) WriteData(stream uint32, flags wire.Flags, data []byte) {
	p.writeFrames(wire.AppendData(nil, stream, flags, data))
}

// WritePaddedData sends one DATA frame with pad bytes of padding, 0 to 255. The padding and the
// byte with its length also count for flow control.
func (p *Peer) WritePaddedData(stream uint32, flags wire.Flags, data []byte, pad int) {
	payload := slices.Concat([]byte{byte(pad)}, data, make([]byte, pad))
	p.WriteFrame(wire.FrameHeader{
		Length: len(payload), Type: wire.Data, Flags: flags | wire.Padded, StreamID: stream,
	}, payload)
}

// WriteRSTStream resets a stream.
func (p *Peer) WriteRSTStream(stream uint32, code wire.ErrCode) {
	p.writeFrames(wire.AppendRSTStream(nil, stream, code))
}

// WriteGoAway sends a GOAWAY frame. It does not close the connection.
func (p *Peer) WriteGoAway(last uint32, code wire.ErrCode, debug string) {
	p.writeFrames(wire.AppendGoAway(nil, last, code, debug))
}

// WriteWindowUpdate grants the client increment bytes on a stream, or on the connection if stream
// is 0.
func (p *Peer) WriteWindowUpdate(stream uint32, increment int) {
	p.writeFrames(wire.AppendWindowUpdate(nil, stream, increment))
}

// WritePing sends a PING; flags is wire.Ack or 0.
func (p *Peer) WritePing(flags wire.Flags, data [8]byte) {
	p.writeFrames(wire.AppendPing(nil, flags, data))
}

// WriteFrame sends a frame header unchanged, even if its Length is wrong, and a payload.
func (p *Peer) WriteFrame(h wire.FrameHeader, payload []byte) {
	p.enter(h, payload)
	p.write(append(wire.AppendFrameHeader(nil, h), payload...))
}

// WriteRaw sends bytes. The books count whole frames at their beginning, but not the rest.
func (p *Peer) WriteRaw(octets []byte) {
	rest := octets
	for len(rest) >= wire.HeaderLen {
		h := wire.ParseFrameHeader(rest)
		if len(rest) < wire.HeaderLen+h.Length {
			break
		}
		p.enter(h, rest[wire.HeaderLen:][:h.Length])
		rest = rest[wire.HeaderLen+h.Length:]
	}
	if len(rest) > 0 {
		p.record(fmt.Sprintf("<- %d raw bytes", len(rest)))
	}
	p.write(octets)
}

// enter records a frame of the peer in the books and in the log.
func (p *Peer) enter(h wire.FrameHeader, payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.books.send(h, payload)
	p.recordLocked("<- " + h.Text(payload))
}

// Batch sends everything that f writes in one Write of the connection.
func (p *Peer) Batch(f func()) {
	p.writing <- struct{}{}
	nested := p.batch
	p.batch = true
	<-p.writing
	f()
	if nested {
		return
	}
	p.writing <- struct{}{}
	held := p.held
	p.batch, p.held = false, nil
	<-p.writing
	if len(held) > 0 {
		p.write(held)
	}
}

// writeFrames sends one well-formed frame.
func (p *Peer) writeFrames(frame []byte) {
	p.WriteFrame(wire.ParseFrameHeader(frame), frame[wire.HeaderLen:])
}

// write writes to the connection, or keeps the bytes for the end of a Batch.
func (p *Peer) write(octets []byte) {
	p.writing <- struct{}{}
	defer func() { <-p.writing }()
	if p.batch {
		p.held = append(p.held, octets...)
		return
	}
	p.conn.SetWriteDeadline(time.Now().Add(wantTimeout)) // the client may not be reading
	if _, err := p.conn.Write(octets); err != nil {
		p.record(fmt.Sprintf("<- %v", err))
	}
	p.conn.SetWriteDeadline(time.Time{})
}

// Encoder returns the encoder of EncodeBlock, for tests of the HPACK table's size and of sensitive
// fields. What it encodes becomes a part of the next block.
func (p *Peer) Encoder() *hpack.Encoder { return p.enc }

// EncodeBlock encodes "name: value" lines as the peer's next header block. Blocks must be sent, and
// in the order in which they were encoded: otherwise the client's HPACK state is wrong.
func (p *Peer) EncodeBlock(fields ...string) []byte {
	p.mu.Lock()
	size := p.books.client[wire.SettingHeaderTableSize]
	p.mu.Unlock()
	if size != p.encSize {
		p.enc.SetMaxDynamicTableSizeLimit(size)
		p.encSize = size
	}
	for _, line := range fields {
		p.enc.WriteField(parseField(line))
	}
	block := bytes.Clone(p.block.Bytes())
	p.block.Reset()
	return block
}

// parseField parses "name: value", where the name may begin with a colon.
func parseField(line string) hpack.HeaderField {
	pseudo := ""
	if strings.HasPrefix(line, ":") {
		pseudo, line = ":", line[1:]
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		panic(fmt.Sprintf("BUG: field %q is not \"name: value\"", line))
	}
	return hpack.HeaderField{Name: pseudo + name, Value: strings.TrimPrefix(value, " ")}
}

// fieldLines returns a field list as text, each field on a new line.
func fieldLines(fields []hpack.HeaderField) string {
	const most = 200
	var b strings.Builder
	for _, f := range fields {
		value := f.Value
		if len(value) > most {
			value = value[:most] + "…"
		}
		fmt.Fprintf(&b, "\n\t%s: %s", f.Name, value)
		if f.Sensitive {
			b.WriteString(" (never indexed)")
		}
	}
	return b.String()
}
