package wire

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// addGolden calls add with each golden frame.
func addGolden(f *testing.F, add func(h FrameHeader, frame []byte)) {
	for _, name := range goldenNames(f) {
		frame := golden(f, name)
		add(ParseFrameHeader(frame), frame)
	}
}

// oneLine reports whether text is one line of printable characters, which is safe in a log and on a
// terminal.
func oneLine(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r != '…' && (r < ' ' || r > '~') })
}

func FuzzFrameHeader(f *testing.F) {
	addGolden(f, func(_ FrameHeader, frame []byte) { f.Add(frame[:HeaderLen], MinMaxFrameSize) })
	f.Fuzz(func(t *testing.T, p []byte, maxLength int) {
		if len(p) < HeaderLen {
			return
		}
		h := ParseFrameHeader(p)
		want := bytes.Clone(p[:HeaderLen])
		want[5] &^= 0x80 // the reserved bit is ignored when received and never sent
		if got := AppendFrameHeader(nil, h); !bytes.Equal(got, want) {
			t.Errorf("%x became %x", want, got)
		}
		if text := h.String(); !oneLine(text) {
			t.Errorf("text %q", text)
		}
		err := h.Check(maxLength)
		if err == nil && h.Length > maxLength {
			t.Errorf("%v passed a limit of %d", h, maxLength)
		}
		if err != nil && !oneLine(err.Error()) {
			t.Errorf("error %q", err)
		}
	})
}

func FuzzPayload(f *testing.F) {
	addGolden(f, func(h FrameHeader, frame []byte) {
		f.Add(uint8(h.Type), uint8(h.Flags), h.StreamID,
			frame[HeaderLen:])
	})
	f.Fuzz(func(t *testing.T, typ, flags uint8, stream uint32, p []byte) {
		h := FrameHeader{Length: len(p), Type: FrameType(typ), Flags: Flags(flags),
			StreamID: stream & MaxStreamID}
		for _, cut := range []int{len(p), len(p) / 2, len(p) - min(len(p), 1), 0} {
			if text := h.Text(p[:cut]); !oneLine(text) {
				t.Errorf("text %q", text)
			}
		}
		if h.Check(MaxMaxFrameSize) != nil {
			return
		}
		// No capacity after p, so that the capacity of a block tells where in p it begins.
		p = slices.Clip(bytes.Clone(p))
		switch h.Type {
		case Headers, PushPromise, Continuation:
			block, err := h.Block(p)
			if err != nil {
				break
			}
			before := cap(p) - cap(block)
			behind := len(p) - before - len(block)
			if len(block) > 0 && &p[before] != &block[0] || before < 0 || behind < 0 || behind > 255 {
				t.Errorf("%v %x: the block is %d bytes, %d before and %d after", h, p, len(block), before,
					behind)
			}
			if h.Type == PushPromise && h.ParsePromisedID(p) > MaxStreamID {
				t.Errorf("%v %x: promised %d", h, p, h.ParsePromisedID(p))
			}
		case RSTStream:
			again(t, p, AppendRSTStream(nil, h.StreamID, ParseRSTStream(p)))
		case Settings:
			again(t, p, AppendSettings(nil, slices.Collect(ParseSettings(p))...))
			for s := range ParseSettings(p) {
				if err := s.Check(); err != nil && !oneLine(err.Error()) {
					t.Errorf("error %q", err)
				}
			}
		case Ping:
			again(t, p, AppendPing(nil, h.Flags, ParsePing(p)))
		case GoAway:
			last, code, debug := ParseGoAway(p)
			p[0] &^= 0x80
			again(t, p, AppendGoAway(nil, last, code, string(debug)))
		case WindowUpdate:
			increment := ParseWindowUpdate(p)
			p[0] &^= 0x80
			again(t, p, AppendWindowUpdate(nil, h.StreamID, increment))
		}
	})
}

// again requires that frame, which was made from what was parsed from p, has the payload p.
func again(t *testing.T, p, frame []byte) {
	t.Helper()
	if got := frame[HeaderLen:]; !bytes.Equal(got, p) || ParseFrameHeader(frame).Length != len(p) {
		t.Errorf("%x became %x", p, got)
	}
}
