// This file tests what a frame waits for while uploads fill the connection.

package hypertest

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// wideSettings let uploads send as much as the socket takes.
var wideSettings = wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 30}

// startUploads starts n endless uploads and accepts the connection that they are on.
func startUploads(v *visit, n int) *accepted {
	upload := func() { v.send(v.request("POST", "/upload", zeroes{})) }
	upload()
	peer := v.accept(wideSettings)
	peer.Ignore(wire.Settings)
	peer.WriteWindowUpdate(0, 1<<30)
	for range n - 1 {
		upload()
	}
	return peer
}

// While the socket takes nothing, acknowledgments and requests do not wait for what uploads would
// send, but only for the write in progress, which is smaller than 128 KiB.
func TestFramesOvertakeUploads(t *testing.T) {
	for name, settings := range map[string][]wire.Setting{
		"small frames": nil, "large frames": {{ID: wire.SettingMaxFrameSize, Value: 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				v.send(v.request("POST", "/upload", zeroes{}))
				peer := v.accept(append(settings, wideSettings)...)
				peer.WantHeaders("the first upload", 1)
				synctest.Wait()
				peer.client.SetWriteBuffer(0)
				for range 7 {
					v.send(v.request("POST", "/upload", zeroes{}))
				}
				peer.WriteWindowUpdate(0, 1<<20)
				synctest.Wait()
				peer.WritePing(0, [8]byte{1})
				v.get("/small")
				synctest.Wait()
				peer.client.SetWriteBuffer(-1)

				// The first upload has used the connection's first window before.
				octets := -65535
				waited := map[wire.FrameType]int{}
				last := uint32(1)
				for len(waited) < 2 || last < 17 {
					f, err := peer.Next()
					if err != nil {
						t.Fatal(err)
					}
					switch {
					case f.Type == wire.Data:
						octets += f.Length
						if f.StreamID > last {
							t.Errorf("DATA on stream %d before its HEADERS", f.StreamID)
						}
					case f.Type == wire.Headers && f.StreamID > 1:
						if f.StreamID != last+2 {
							t.Errorf("HEADERS of stream %d after those of %d", f.StreamID, last)
						}
						last = f.StreamID
						waited[wire.Headers] = octets
					case f.Type == wire.Headers || f.Type == wire.Settings:
					case f.Type == wire.Ping:
						waited[wire.Ping] = octets
					}
				}
				for frame, octets := range waited {
					if octets < 0 || octets > 96<<10 {
						t.Errorf("%v waited for %d bytes of DATA", frame, octets)
					}
				}
			})
		})
	}
}

// A slowConn is a connection whose writes take as long as a link of this rate, in bytes per second.
type slowConn struct {
	net.Conn
	rate int
}

// Write writes p after the time that the link needs.
func (c *slowConn) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(c.rate))
	return c.Conn.Write(p)
}

// On a slow connection, uploads write less at once, so that a new request waits for less.
func TestRequestBesideSlowUploadsIsSentSoon(t *testing.T) {
	const rate = 1 << 20 // a KiB takes about a millisecond
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &visit{door: d, t: t, peers: make(chan *accepted, 1)}
				dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := v.dial(ctx, network, addr)
					return &slowConn{nc, rate}, err
				}
				v.rt = d.enter(t, dial, hyper.Config{})
				peer := startUploads(v, 8)
				peer.Ignore(wire.Data, wire.Settings)
				time.Sleep(4 * time.Second)
				for range 5 {
					got := v.get("/small")
					sent := time.Now()
					id := uint32(0)
					for id == 0 {
						if f := peer.WantFrame("the request", wire.Headers); f.StreamID > 15 {
							id = f.StreamID
						}
					}
					if took := time.Since(sent); took > 50*time.Millisecond {
						t.Errorf("a request was sent after %v", took)
					}
					h2test.AnswerEmpty(peer.Peer, id)
					if resp := got.Want(t, "its response"); resp.StatusCode != 204 {
						t.Error(resp.Status)
					}
					time.Sleep(30 * time.Millisecond)
				}
				peer.Close()
				time.Sleep(time.Second) // the write in progress ends
			})
		})
	}
}

// Uploads still fill each write. A socket that takes whatever comes gets 64 KiB in one write.
func TestUploadsFillTheirWrites(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		const size = 8 << 20
		v.send(v.request("POST", "/upload", io.LimitReader(zeroes{}, size)))
		peer := v.accept(wideSettings)
		peer.WantHeaders("the upload", 1)
		peer.Ignore(wire.Settings)
		got := 0
		receive := func(until int) {
			for got < until {
				got += peer.WantFrame("its body", wire.Data).Length
			}
		}
		receive(65535)
		synctest.Wait()
		before := peer.client.Writes()
		peer.WriteWindowUpdate(0, 1<<30)
		receive(size)
		synctest.Wait()
		most := size>>16 + 4
		if v.name == "NewConnTLS" {
			most *= 5 // the caller's TLS writes each record by itself
		}
		if n := peer.client.Writes() - before; n > most {
			t.Errorf("%d bytes took %d writes", size, n)
		}
	})
}
