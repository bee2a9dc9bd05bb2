package hyper

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/bucket"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// FuzzConn checks a whole connection with a download, an upload and pushes in progress. Whatever
// the server sends after its SETTINGS, the connection must end without a panic, a blocked call or a
// leaked goroutine, and its accounts must be correct before that.
func FuzzConn(f *testing.F) {
	for _, p := range fuzzSeeds(f) {
		f.Add(p, uint8(0))
		f.Add(p, uint8(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, chunk uint8) {
		if len(p) > 1<<20 {
			t.Skip()
		}
		defer watchdog(20 * time.Second)()
		synctest.Test(t, func(t *testing.T) {
			client, server := h2test.Pipe()
			client.SetChunk(int(chunk))
			conn, err := NewConn(context.Background(), client, &Config{
				Push: &PushPolicy{Max: 3}, Authority: "localhost", MaxHeaderListSize: 4 << 10,
				Trace: func(TraceEvent) {},
			})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			go func() { // one caller after another, so that stream IDs are fixed
				defer close(done)
				var streams []*Stream
				for _, req := range []*Request{
					{Body: strings.NewReader("")},
					{Method: "POST", Body: io.LimitReader(zeroReader{}, 3000),
						Trailer: Header{{Name: "a", Value: "b"}}},
					{Method: "HEAD", Body: strings.NewReader(""),
						Informational: func(int, Header) error { return nil }},
				} {
					s, err := conn.Open(ctx, req)
					if err != nil {
						continue
					}
					streams = append(streams, s)
				}
				for _, s := range streams {
					resp, err := s.Response(ctx)
					if err != nil {
						continue
					}
					for push := range resp.Pushes(ctx) {
						if push == nil {
							break
						}
						if pushed, err := push.Response(ctx); err == nil {
							pushed.Stream().SetReadDeadline(time.Now().Add(time.Minute))
							io.Copy(io.Discard, io.LimitReader(pushed.Body, 1<<20))
							pushed.Body.Close()
						}
					}
					io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
					resp.Trailer()
				}
			}()
			go io.Copy(io.Discard, server)
			synctest.Wait()
			conn.reader.frames.blockSize = smallBlock
			server.Write(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingInitialWindowSize,
				Value: 1000}))
			server.Write(wire.AppendSettingsAck(nil))
			synctest.Wait()
			server.Write(p)
			synctest.Wait()
			checkBooks(t, conn)
			<-done
			cancel()
			start := time.Now()
			conn.Close()
			if took := time.Since(start); took > time.Second {
				t.Errorf("Close took %v", took)
			}
			server.Close()
		})
	})
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// smallFrames returns HEADERS of two streams and random DATA of them: mostly small, at times empty,
// padded, large, or the last of its stream.
func smallFrames(random *rand.Rand) (frames []byte) {
	for _, id := range []uint32{1, 3} {
		block := []byte{0x88} // :status 200
		if random.IntN(3) == 0 {
			n := strconv.Itoa(random.IntN(6000))
			block = append(append(block, 0x5c, byte(len(n))), n...) // content-length
		}
		frames = append(frames, h2test.RawFrame(wire.Headers, wire.EndHeaders, id, block)...)
	}
	id := uint32(1)
	for range random.IntN(100) {
		if random.IntN(8) == 0 {
			id = 4 - id
		}
		payload, flags := make([]byte, random.IntN(120)), wire.Flags(0)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		switch random.IntN(40) {
		case 0:
			payload, flags = append([]byte{byte(len(payload) / 2)}, payload...), wire.Padded
		case 1:
			payload = make([]byte, 3000)
		case 2:
			flags = wire.EndStream
		case 3:
			payload = nil
		}
		frames = append(frames, h2test.RawFrame(wire.Data, flags, id, payload)...)
	}
	return frames
}

// received returns the state of a connection that has received frames, as a text. The
// streams' windows and the connection's have room for that many bytes.
func received(t *testing.T, frames []byte, cfg *Config, windows [3]int64) string {
	c := steppedConn(t, bytes.NewReader(frames), cfg)
	var streams []*Stream
	for range 2 {
		s, err := c.Open(t.Context(), &Request{Method: "GET", Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		s.CloseWrite()
		streams = append(streams, s)
	}
	all := []*Window{&streams[0].window, &streams[1].window, &c.flow.window}
	for i, w := range all {
		w.credit, w.pending = windows[i], 0
	}
	c.liveness.floodBudget = bucket.New(5, noiseBurst, 0) // it does not grow with time
	var b strings.Builder
	for {
		f, err := c.reader.frames.next()
		if err = c.recv(&f, err); err != nil {
			fmt.Fprintln(&b, err)
			break
		}
	}
	for i, w := range all {
		fmt.Fprintln(&b, i, w.credit, w.pending, w.unread, w.total)
	}
	for _, s := range streams {
		body := make([]byte, s.buf.Len())
		fmt.Fprintf(&b, "%x %v %v %v %d %v\n", body[:s.buf.Read(body)], s.state, s.message, s.recvErr,
			s.bodyLeft, c.streams.byID[s.id] == s)
	}
	fmt.Fprintln(&b, c.counts.dataReceived, c.liveness.floodBudget.Left())
	return b.String()
}

// Small DATA frames are received many at once, with the same result as one by one. A trace needs
// them one by one.
func TestSmallDataAtOnceIsAsOneByOne(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		frames := smallFrames(random)
		windows := [3]int64{int64(random.IntN(8000)), 1 << 20, int64(random.IntN(12000))}
		one := received(t, frames, &Config{Trace: func(TraceEvent) {}}, windows)
		for _, cfg := range []*Config{nil, {StreamTimes: true}} {
			if atOnce := received(t, frames, cfg, windows); one != atOnce {
				t.Fatalf("seed %d: at once\n%s\none by one\n%s", seed, atOnce, one)
			}
		}
	}
}
