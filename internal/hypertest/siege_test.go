// This file holds the connection of the tests in which a peer attacks.

package hypertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// Each test here checks one bound on what a peer can cost. The peer exceeds the bound, the
// connection sends the right error code, the caller gets an error, and neither memory nor time
// grows with what the peer sends.

// unlessRaced returns n, or few under the race detector, which makes everything about ten times
// slower.
func unlessRaced(n, few int) int {
	if h2test.Race {
		return few
	}
	return n
}

// maxGrowth is how much more memory a connection under attack may hold than an idle one.
const maxGrowth = 4 << 20

// A siege is a connection whose peer does not have to follow the protocol.
type siege struct {
	t      *testing.T
	peer   *h2test.Peer
	conn   *hyper.Conn
	client *h2test.Conn
	server *h2test.Conn // a write blocks when the client is 64 KiB behind
	idle   uint64       // heap before the attack
	most   uint64       // the largest seen since

	lastPush uint32 // the last stream that the peer has promised, for GOAWAY
}

// besiege runs f in a synctest bubble and fails if all of it takes longer than limit of real time,
// which it extends for a busy machine.
func besiege(t *testing.T, cfg *hyper.Config, limit time.Duration, f func(s *siege)) {
	t.Helper()
	limit *= 4
	if h2test.Race {
		limit *= 5
	}
	start := time.Now()
	synctest.Test(t, func(t *testing.T) {
		s := &siege{t: t}
		s.client, s.server = h2test.Pipe()
		s.server.SetWriteBuffer(64 << 10)
		s.peer = h2test.NewPeer(t, s.server)
		conn, err := hyper.NewConn(context.Background(), s.client, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		s.conn = conn
		s.peer.Handshake()
		s.peer.Ignore(wire.WindowUpdate)
		s.idle = s.heap()
		f(s)
	})
	if took := time.Since(start); took > limit {
		t.Errorf("it took %v, more than %v", took, limit)
	}
}

func (s *siege) heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watch records the size of the heap.
func (s *siege) watch() { s.most = max(s.most, s.heap()) }

// wantMemory requires that the heap never grew by more than most bytes.
func (s *siege) wantMemory(most int) {
	s.t.Helper()
	s.watch()
	if grown := int64(s.most) - int64(s.idle); grown > int64(most) {
		s.t.Errorf("the heap grew by %d octets, want at most %d", grown, most)
	}
	runtime.KeepAlive(s.conn)
}

// flood writes frame until it has done so n times or the connection ends. It returns how many bytes
// the client received.
func (s *siege) flood(n int, frame []byte) int64 {
	batch := min(max(1, 64<<10/len(frame)), 200) // the test's own bytes count as heap, too
	before := s.conn.Stats().BytesReceived
	octets := bytes.Repeat(frame, batch)
	for i := 0; i < n && s.conn.Err() == nil; i += batch {
		s.server.Write(octets)
		if i%max(batch, n/5/batch*batch) == 0 {
			s.watch()
		}
	}
	synctest.Wait()
	return s.conn.Stats().BytesReceived - before
}

// get starts a request and waits until the peer has its HEADERS.
func (s *siege) get(stream uint32) *h2test.Call[*hyper.Response] {
	s.t.Helper()
	r := getAsync(s.conn, "/")
	s.peer.WantHeaders("request", stream)
	return r
}

// wantEnd requires that the connection ended with code, and that the peer and the callers were told
// so.
func (s *siege) wantEnd(code hyper.ErrCode, callers ...*h2test.Call[*hyper.Response]) {
	s.t.Helper()
	s.peer.Ignore(wire.Settings, wire.Ping, wire.RSTStream)
	synctest.Wait()
	s.peer.WantGoAway("the bound is reached", s.lastPush, wire.ErrCode(code))
	s.peer.WantClosed("and the connection ends")
	for _, r := range callers {
		err := r.WantErr(s.t, "a caller")
		var ce *hyper.ConnError
		if !errors.As(err, &ce) || ce.Code != code || ce.FromPeer {
			s.t.Errorf("the caller got %v", err)
		}
	}
}

// wantLife requires that a request still succeeds.
func (s *siege) wantLife(stream uint32) {
	s.t.Helper()
	r := s.get(stream)
	s.peer.WriteHeaders(stream, wire.EndStream, ":status: 200")
	r.Want(s.t, "the connection lives")
}

// answerAll plays a server that responds to each request with 200 and, if body is not 0, with a
// body of that many bytes.
func answerAll(nc net.Conn, body int) {
	br := bufio.NewReaderSize(nc, 64<<10)
	br.Discard(len(wire.ClientPreface))
	out := wire.AppendSettings(nil)
	data := make([]byte, body)
	var head [wire.HeaderLen]byte
	for {
		if br.Buffered() == 0 {
			nc.Write(out)
			out = out[:0]
		}
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return
		}
		h := wire.ParseFrameHeader(head[:])
		var ping [8]byte
		switch {
		case h.Type == wire.Ping && !h.Flags.Has(wire.Ack):
			io.ReadFull(br, ping[:])
			out = wire.AppendPing(out, wire.Ack, ping)
			continue
		case h.Type == wire.Settings && !h.Flags.Has(wire.Ack):
			out = wire.AppendSettingsAck(out)
		case h.Type == wire.Headers && body == 0:
			out = append(out, h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, h.StreamID,
				[]byte{0x88})...)
		case h.Type == wire.Headers:
			out = append(out, h2test.RawFrame(wire.Headers, wire.EndHeaders, h.StreamID, []byte{0x88})...)
			out = wire.AppendData(out, h.StreamID, wire.EndStream, data)
		}
		br.Discard(h.Length)
	}
}
