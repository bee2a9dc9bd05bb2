package flowsim

import (
	"bytes"
	"fmt"
	"iter"
	"math"
	"strings"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A server answers each request as soon as it arrives, and writes DATA as long as its socket has
// room and the client's windows allow it.
type server struct {
	r        *run
	greeted  bool // our SETTINGS were sent, with the acknowledgment of the client's
	credit   int64
	initial  int64 // initial window of streams, by the last SETTINGS that arrived
	streams  map[uint32]*serverStream
	sizes    []int           // of the responses to the requests that are to come, in their order
	turn     []*serverStream // streams with data to send, in the order of their turns
	incoming splitter
	items    []*item // frames in the socket or on the way, in order
}

// A serverStream is a stream as the server knows it.
type serverStream struct {
	id     uint32
	credit int64
	left   int
	size   int
	headed bool // the response's header was sent
}

// An item is a frame from the server. The payload of DATA is not kept.
type item struct {
	wire.FrameHeader
	payload []byte
	ends    int64 // position of its end in the bytes of the connection
	given   int   // bytes of it that the client has
}

// size returns the length of the frame with its header.
func (it *item) size() int { return wire.HeaderLen + it.Length }

// header returns the bytes of the frame without the payload of DATA. The payload of another frame
// is zero if it was not kept.
func (it *item) header() []byte {
	b := append(wire.AppendFrameHeader(nil, it.FrameHeader), it.payload...)
	if it.Type != wire.Data {
		b = append(b, make([]byte, it.Length-len(it.payload))...)
	}
	return b
}

// recv handles the frames that the client has written.
func (v *server) recv(out []byte) {
	for h, payload := range v.incoming.frames(out) {
		v.recvFrame(h, payload)
	}
	v.pump()
}

// recvFrame handles one frame.
func (v *server) recvFrame(h wire.FrameHeader, payload []byte) {
	switch h.Type {
	case wire.Headers:
		if h.Flags.Has(wire.EndStream) {
			v.answer(h.StreamID, v.sizes[0])
			v.sizes = v.sizes[1:]
		}
	case wire.Data:
		v.r.uploaded(h.Length)
		if h.Flags.Has(wire.EndStream) {
			v.sendHeader(&serverStream{id: h.StreamID}, wire.EndStream)
		}
	case wire.Settings:
		if h.Flags.Has(wire.Ack) {
			return
		}
		if size, ok := initialWindow(payload); ok {
			for _, s := range v.streams {
				s.credit += size - v.initial
			}
			v.initial = size
		}
		ack := item{FrameHeader: wire.FrameHeader{Type: wire.Settings, Flags: wire.Ack}}
		if v.greeted {
			v.send(ack)
		} else {
			v.greeted = true
			v.send(v.settings(), ack)
			if v.r.Direction == Upload {
				v.send(v.openWindow())
			}
		}
	case wire.WindowUpdate:
		n := int64(wire.ParseWindowUpdate(payload))
		if h.StreamID == 0 {
			v.credit += n
		} else {
			v.streams[h.StreamID].credit += n
		}
	case wire.Ping:
		if !h.Flags.Has(wire.Ack) {
			v.send(item{FrameHeader: wire.FrameHeader{Type: wire.Ping, Flags: wire.Ack, Length: len(payload)},
				payload: payload})
		}
	case wire.GoAway:
		v.r.note(fmt.Errorf("the client says goodbye: %w", v.r.conn.Err()))
	}
}

// answer begins a response of so many bytes.
func (v *server) answer(stream uint32, size int) {
	s := &serverStream{id: stream, credit: v.initial, left: size, size: size}
	v.streams[s.id] = s
	v.turn = append(v.turn, s)
}

// settings returns the server's SETTINGS. If the client uploads, they open the windows of its
// streams.
func (v *server) settings() item {
	it := item{FrameHeader: wire.FrameHeader{Type: wire.Settings}}
	if v.r.Direction == Upload {
		setting := wire.Setting{ID: wire.SettingInitialWindowSize, Value: math.MaxInt32}
		it.payload = wire.AppendSettings(nil, setting)[wire.HeaderLen:]
		it.Length = len(it.payload)
	}
	return it
}

// openWindow returns the WINDOW_UPDATE that opens the connection's window to the client.
func (v *server) openWindow() item {
	frame := wire.AppendWindowUpdate(nil, 0, math.MaxInt32-wire.InitialWindow)
	return item{FrameHeader: wire.ParseFrameHeader(frame), payload: frame[wire.HeaderLen:]}
}

// pump writes frames into the socket as long as it has room and the windows allow it.
func (v *server) pump() {
	for passed := 0; v.r.link.takes() && passed < len(v.turn) && v.credit > 0; {
		s := v.turn[passed]
		if !s.headed {
			s.headed = true
			v.sendHeader(s, 0)
		}
		n := min(frameSize, s.left, int(s.credit), int(v.credit))
		if n <= 0 {
			passed++
			continue
		}
		s.left -= n
		s.credit -= int64(n)
		v.credit -= int64(n)
		var flags wire.Flags
		if s.left == 0 {
			flags = wire.EndStream
		}
		v.send(item{FrameHeader: wire.FrameHeader{Type: wire.Data, StreamID: s.id, Length: n, Flags: flags}})
		switch {
		case s.left == 0:
			v.turn = append(v.turn[:passed], v.turn[passed+1:]...)
		case !v.r.InTurn: // its next turn is after the others'
			copy(v.turn[passed:], v.turn[passed+1:])
			v.turn[len(v.turn)-1] = s
		}
	}
}

// headerSize is the length of the field block of a response, in bytes.
const headerSize = 50

// sendHeader sends the header of a response.
func (v *server) sendHeader(s *serverStream, flags wire.Flags) {
	fields := []hpack.HeaderField{{Name: ":status", Value: "200"}}
	if v.r.Length {
		fields = append(fields, hpack.HeaderField{Name: "content-length", Value: fmt.Sprint(s.size)})
	}
	size := len(fieldBlock(append(fields, hpack.HeaderField{Name: "etag"})))
	pad := strings.Repeat("~", headerSize-size)
	block := fieldBlock(append(fields, hpack.HeaderField{Name: "etag", Value: pad}))
	v.send(item{FrameHeader: wire.FrameHeader{Type: wire.Headers, Flags: wire.EndHeaders | flags,
		StreamID: s.id, Length: len(block)}, payload: block})
}

// fieldBlock returns the field block of fields, without use of the compression table.
func fieldBlock(fields []hpack.HeaderField) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0)
	for _, f := range fields {
		enc.WriteField(f)
	}
	return b.Bytes()
}

// send writes frames into the socket, in one write.
func (v *server) send(list ...item) {
	total := 0
	for _, it := range list {
		total += it.size()
		it.ends = v.r.link.written + int64(total)
		v.items = append(v.items, &it)
	}
	v.r.link.write(total)
}

// arrived returns the next frame, and how many bytes of it the client does not have and are in the
// first total bytes of the connection. A frame has to be there as a whole, except for DATA if parts
// is true.
func (v *server) arrived(total int64, parts bool) (it *item, n int, ok bool) {
	if len(v.items) == 0 {
		return nil, 0, false
	}
	it = v.items[0]
	if it.ends <= total {
		v.items = v.items[1:]
		return it, it.size() - it.given, true
	}
	n = int(total-it.ends) + it.size() - it.given
	if !parts || it.Type != wire.Data || it.given == 0 && n < wire.HeaderLen || n <= 0 {
		return nil, 0, false
	}
	return it, n, true
}

// A splitter finds the frames in the bytes that the client has written.
type splitter struct {
	rest  []byte // a part of a frame
	begun bool   // the preface is over
}

// frames returns the frames that are complete with the next bytes, with their payloads.
func (s *splitter) frames(out []byte) iter.Seq2[wire.FrameHeader, []byte] {
	return func(yield func(wire.FrameHeader, []byte) bool) {
		if len(s.rest) > 0 {
			out = append(s.rest, out...)
		}
		if !s.begun && len(out) >= len(wire.ClientPreface) {
			out, s.begun = out[len(wire.ClientPreface):], true
		}
		for s.begun && len(out) >= wire.HeaderLen {
			h := wire.ParseFrameHeader(out)
			end := wire.HeaderLen + h.Length
			if len(out) < end || !yield(h, out[wire.HeaderLen:end]) {
				break
			}
			out = out[end:]
		}
		s.rest = append([]byte(nil), out...)
	}
}

// initialWindow returns the value of INITIAL_WINDOW_SIZE in the payload of SETTINGS.
func initialWindow(payload []byte) (size int64, ok bool) {
	for s := range wire.ParseSettings(payload) {
		if s.ID == wire.SettingInitialWindowSize {
			size, ok = int64(s.Value), true
		}
	}
	return size, ok
}
