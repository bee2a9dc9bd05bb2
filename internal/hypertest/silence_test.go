package hypertest

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A peer that acknowledges no PING counts as dead unless other data shows that it is alive: a whole
// frame, or 4 KiB of an unfinished frame within PingTimeout. Fewer bytes are not enough.

// unfinished maps a name to the bytes of a frame that the peer never completes.
var unfinished = map[string]func(octet int) byte{
	"DATA":             frameOf(wire.FrameHeader{Length: 10_000, Type: wire.Data, StreamID: 1}),
	"HEADERS":          frameOf(wire.FrameHeader{Length: 10_000, Type: wire.Headers, StreamID: 1}),
	"an unknown frame": frameOf(wire.FrameHeader{Length: 10_000, Type: 0xee}),
	"a PING":           frameOf(wire.FrameHeader{Length: 8, Type: wire.Ping}),
}

// frameOf returns the bytes of a frame with the header h and a payload of zeros.
func frameOf(h wire.FrameHeader) func(octet int) byte {
	header := wire.AppendFrameHeader(nil, h)
	return func(i int) byte {
		if i < len(header) {
			return header[i]
		}
		return 0
	}
}

// readToEnd receives the beginning of a response on stream 1 and reads its body to the end on
// another goroutine.
func readToEnd(t *testing.T, v *visit, peer *accepted) *h2test.Call[int64] {
	t.Helper()
	resp := beginResponse(t, v, peer)
	return h2test.Go(func() (int64, error) { return io.Copy(io.Discard, resp.Body) })
}

func TestBytesOfAFrameThatNeverEndsAreNoSignOfLife(t *testing.T) {
	for name, octet := range unfinished {
		t.Run(name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				peer := &accepted{}
				read := readToEnd(t, v, peer)
				peer.Ignore(wire.Ping) // and acknowledge none
				began := time.Now()
				gone := make(chan struct{})
				go func() {
					for i := 0; ; i++ {
						select {
						case <-gone:
							return
						case <-time.After(7 * time.Second):
							peer.WriteRaw([]byte{octet(i)})
						}
					}
				}()
				err := read.WantErr(t, "the peer is dead")
				close(gone)
				if !errors.Is(err, hyper.ErrPingTimeout) {
					t.Errorf("the reader got %v", err)
				}
				// Of an unknown frame the client reads only the header. It may count as whole after
				// 63 s.
				if took := time.Since(began); took != 45*time.Second &&
					(name != "an unknown frame" || took > 2*time.Minute) {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestLargeFrameOnASlowLinkIsASignOfLife(t *testing.T) {
	const size = 1 << 20
	cfg := hyper.Config{MaxFrameSize: size, InitialStreamWindow: 2 * size}
	eachDoor(t, cfg, func(t *testing.T, v *visit) {
		peer := &accepted{}
		read := readToEnd(t, v, peer)
		peer.Ignore(wire.Ping) // the acknowledgment would have to wait for the frame
		peer.WriteRaw(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: size, Type: wire.Data,
			Flags: wire.EndStream, StreamID: 1}))
		sent := 0
		for range 200 { // more than three minutes at 400 bytes a second
			time.Sleep(time.Second)
			peer.WriteRaw(make([]byte, 400))
			sent += 400
		}
		for sent < size {
			n := min(size-sent, 64<<10)
			peer.WriteRaw(make([]byte, n))
			sent += n
			synctest.Wait()
		}
		if n := read.Want(t, "all of it came"); n != size+int64(len("begin")) {
			t.Errorf("%d octets", n)
		}
	})
}

// A small frame is a whole frame, so it shows that the peer is alive, however rarely such frames
// arrive.
func TestSmallFramesAreASignOfLife(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		peer := &accepted{}
		read := readToEnd(t, v, peer)
		peer.Ignore(wire.Ping)
		for range 50 {
			time.Sleep(14 * time.Second)
			peer.WriteData(1, 0, []byte("."))
		}
		peer.WriteData(1, wire.EndStream, nil)
		if n := read.Want(t, "an event stream"); n != 50+int64(len("begin")) {
			t.Errorf("%d octets", n)
		}
	})
}

// A byte of the peer ends the suspicion that a request's timeout raised, and there may be no frame
// yet. The pool hears of it, and a request that looks for a slot then does not block.
func TestRequestAfterTheFirstByteOfASuspectedPeer(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		oneConn(v)
		call := v.get("/")
		peer := v.accept(h2test.AtMost(1))
		peer.Ignore(wire.Ping, wire.RSTStream, wire.Data)
		peer.WantHeaders("a request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		call.Want(t, "the response").Body.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		call = v.send(v.request("GET", "/", nil).WithContext(ctx))
		peer.WantHeaders("another request", 3)
		call.WantErr(t, "the peer is silent")
		second := v.sendOnce("/second")
		synctest.Wait()
		ack := wire.AppendPing(nil, wire.Ack, [8]byte{})
		peer.WriteRaw(ack[:1])
		synctest.Wait()
		third := v.sendOnce("/third")
		synctest.Wait()
		peer.Close()
		second.WantErr(t, "the connection is lost")
		third.WantErr(t, "the connection is lost")
	})
}
