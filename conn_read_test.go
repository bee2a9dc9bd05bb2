package hyper

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
