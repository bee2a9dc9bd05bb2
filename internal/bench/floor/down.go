package floor

import (
	"bytes"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// Down connects to addr, downloads path so often at once, and copies what it gets into a buffer of
// a user, once. It returns the number of bytes. Nil d dials TCP.
func Down(addr, path string, streams int, d Dialer) (octets int64, err error) {
	l, err := dial(addr, d)
	if err != nil {
		return 0, err
	}
	defer l.close()
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	dec := hpack.NewDecoder(4096, func(hpack.HeaderField) {})
	unread := map[uint32]int{}
	for range streams {
		b := block(enc, &buf, addr, path)
		l.out = append(wire.AppendFrameHeader(l.out, wire.FrameHeader{Length: len(b), Type: wire.Headers,
			Flags: wire.EndStream | wire.EndHeaders, StreamID: l.next}), b...)
		unread[l.next] = 0
		l.next += 2
	}
	l.mu.Lock()
	l.commitUnlocking(true)
	user := make([]byte, frameSize)
	for {
		f, ok := l.reader.next()
		if !ok {
			if err := l.reader.fill(); err != nil {
				return octets, err
			}
			continue
		}
		switch f.Type {
		case wire.Data:
			octets += int64(copy(user, f.payload))
			l.unread += len(f.payload)
			unread[f.StreamID] += len(f.payload)
			if n := unread[f.StreamID]; n > window/2 && !f.Flags.Has(wire.EndStream) {
				l.mu.Lock()
				l.out = wire.AppendWindowUpdate(l.out, f.StreamID, n)
				l.commitUnlocking(true)
				unread[f.StreamID] = 0
			}
			l.credit()
		case wire.Headers:
			if _, err := dec.Write(f.payload); err != nil {
				return octets, err
			}
			if err := dec.Close(); err != nil {
				return octets, err
			}
		default:
			if err := l.control(f); err != nil {
				return octets, err
			}
		}
		if f.Type <= wire.Headers && f.Flags.Has(wire.EndStream) {
			if delete(unread, f.StreamID); len(unread) == 0 {
				return octets, nil
			}
		}
	}
}
