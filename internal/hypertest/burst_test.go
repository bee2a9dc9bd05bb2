package hypertest

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// The tests of this file check that the memory of many concurrent streams is released when the
// streams have ended, even if the connection stays in use.

// plainPeer is a peer that discards what it reads and stores nothing. All memory that such a test
// measures is therefore the client's.
type plainPeer struct{ net.Conn }

// serve completes the handshake, acknowledges every PING and discards all other frames.
func (p plainPeer) serve() {
	buf := make([]byte, 64<<10)
	if _, err := io.ReadFull(p, buf[:len(wire.ClientPreface)]); err != nil {
		return
	}
	go p.Write(wire.AppendSettingsAck(wire.AppendSettings(nil, h2test.AtMost(1<<30))))
	for {
		if _, err := io.ReadFull(p, buf[:wire.HeaderLen]); err != nil {
			return
		}
		h := wire.ParseFrameHeader(buf)
		if _, err := io.ReadFull(p, buf[:h.Length]); err != nil {
			return
		}
		if h.Type == wire.Ping {
			go p.Write(wire.AppendPing(nil, wire.Ack, wire.ParsePing(buf[:8])))
		}
	}
}

// answer writes a response with :status 200 and 100 bytes of DATA. flags are those of the DATA
// frame: without END_STREAM the response is not complete.
func (p plainPeer) answer(stream uint32, flags wire.Flags) {
	h := wire.FrameHeader{Length: 1, Type: wire.Headers, Flags: wire.EndHeaders, StreamID: stream}
	frames := append(wire.AppendFrameHeader(nil, h), 0x88) // :status: 200
	p.Write(wire.AppendData(frames, stream, flags, make([]byte, 100)))
}

// heap returns the size of the live heap, in bytes. It collects twice, because the first collection
// only moves the contents of a sync.Pool to its victim cache.
func heap() int64 {
	var m runtime.MemStats
	for range 2 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// keptAfterBurst returns how many bytes more the client holds after 2,000 concurrent requests than
// before. With stays, one stream is open all the time. With cancelled, the requests get no response
// and their context is canceled.
func keptAfterBurst(t *testing.T, d door, stays, cancelled bool) int64 {
	const requests = 2000
	client, server := net.Pipe()
	peer := plainPeer{server}
	go peer.serve()
	dial := func(context.Context, string, string) (net.Conn, error) { return client, nil }
	v := &visit{door: d, t: t}
	v.rt = d.enter(t, dial, hyper.Config{KeepAlive: -1})
	get := func(ctx context.Context) {
		resp, err := v.rt.RoundTrip(v.request("GET", "/", nil).WithContext(ctx))
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		} else if !cancelled {
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	all.Go(func() { get(t.Context()) })
	synctest.Wait()
	peer.answer(1, wire.EndStream)
	all.Wait()
	next := uint32(3)
	var open *httpCall
	if stays {
		open = v.get("/stays")
		synctest.Wait()
		peer.answer(next, 0)
		open.Want(t, "a stream that stays")
		next += 2
	}
	time.Sleep(10 * time.Second)
	before := heap()
	ctx, cancel := context.WithCancel(t.Context())
	for range requests {
		all.Go(func() { get(ctx) })
	}
	// Longer than the client needs to notice that the writer is idle.
	time.Sleep(10 * time.Second)
	for i := range uint32(requests) {
		if !cancelled {
			peer.answer(next+2*i, wire.EndStream)
		}
	}
	if cancelled {
		cancel()
	}
	all.Wait()
	cancel()
	time.Sleep(10 * time.Second)
	kept := heap() - before
	runtime.KeepAlive(open)
	runtime.KeepAlive(v)
	server.Close()
	return kept
}

func TestBurstOfStreamsIsGivenBack(t *testing.T) {
	if h2test.Race {
		t.Skip("the race detector makes it take a minute")
	}
	for _, c := range []struct {
		name             string
		stays, cancelled bool
	}{{"answered", false, false}, {"answered, one stays", true, false}, {"cancelled", false, true}} {
		for _, d := range doors {
			// The other doors take longer and show the same.
			if !d.cleartext || d.name == "ConnRoundTripCleartext" {
				continue
			}
			t.Run(c.name+", "+d.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					// The first run starts goroutines. The runtime keeps their memory.
					keptAfterBurst(t, d, c.stays, c.cancelled)
					if kept := keptAfterBurst(t, d, c.stays, c.cancelled); kept > 50<<10 {
						t.Errorf("%d octets are kept", kept)
					}
				})
			})
		}
	}
}
