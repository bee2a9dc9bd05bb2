package hyper

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// fuzzSeeds are frames of every type, alone and one behind the other, and what real servers sent.
func fuzzSeeds(f *testing.F) (seeds [][]byte) {
	f.Helper()
	files, err := filepath.Glob("testdata/frames/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatal("no testdata/frames: ", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var digits strings.Builder
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		frame, err := hex.DecodeString(digits.String())
		if err != nil {
			f.Fatal(file, err)
		}
		seeds = append(seeds, frame)
	}
	for _, file := range transcriptFiles(f) {
		seeds = append(seeds, readTranscript(f, file).received(2<<10))
	}
	return append(seeds, everyFrame())
}

// FuzzFrameReader: arbitrary octets never break the reader; what it hands out is what came in; and it comes out
// the same however the octets arrive.
func FuzzFrameReader(f *testing.F) {
	for _, p := range fuzzSeeds(f) {
		f.Add(p)
	}
	cfg := &Config{MaxFrameSize: 16 << 10, MaxHeaderListSize: 4 << 10}
	f.Fuzz(func(t *testing.T, p []byte) {
		r := testReader(t, bytes.NewReader(p), cfg)
		at := 0 // where in p the reader must be
		for {
			h := wire.FrameHeader{}
			if len(p)-at >= wire.HeaderLen {
				h = wire.ParseFrameHeader(p[at:])
			}
			f, err := r.next()
			if len(r.buf) > maxReadBuffer || cap(r.block) > 8*cfg.MaxHeaderListSize {
				t.Fatalf("the buffer is %d, the block %d", len(r.buf), cap(r.block))
			}
			if we, ok := err.(*wire.Error); ok && we.StreamID != 0 {
				at += wire.HeaderLen + h.Length
				continue
			}
			if err != nil {
				break
			}
			if f.first || f.Type != wire.Data {
				if f.FrameHeader != h {
					t.Fatalf("got %v, want %v", f.FrameHeader, h)
				}
			}
			switch f.Type {
			case wire.Data:
				if !f.first {
					t.Fatal("a part of DATA without a first one")
				}
				got, want := bytes.Clone(f.payload), h.Length-f.padding
				for !f.last {
					if f, err = r.next(); err != nil {
						break
					}
					got = append(got, f.payload...)
				}
				if err != nil {
					break
				}
				start := at + wire.HeaderLen + min(1, h.Length-want)
				if !bytes.Equal(got, p[start:start+want]) {
					t.Fatalf("%v came as %q", h, got)
				}
			case wire.Headers, wire.PushPromise:
				size := 0
				for _, field := range f.fields {
					size += field.size()
				}
				if size > cfg.MaxHeaderListSize || f.oversize > 2*cfg.MaxHeaderListSize {
					t.Fatalf("a list of %d octets, %d in all", size, f.oversize)
				}
				for flags := h.Flags; !flags.Has(wire.EndHeaders); {
					at += wire.HeaderLen + h.Length
					h = wire.ParseFrameHeader(p[at:])
					flags = h.Flags
				}
			default:
				if len(f.payload) > 0 && !bytes.Equal(f.payload, p[at+wire.HeaderLen:][:h.Length]) {
					t.Fatalf("%v came as %q", h, f.payload)
				}
			}
			at += wire.HeaderLen + h.Length
		}
		whole, err1 := readAll(testReader(t, bytes.NewReader(p), cfg))
		dribbled, err2 := readAll(testReader(t, iotest.OneByteReader(bytes.NewReader(p)), cfg))
		if !slices.Equal(whole, dribbled) || err1.Error() != err2.Error() {
			t.Fatalf("in one piece %v, %v; octet by octet %v, %v", whole, err1, dribbled, err2)
		}
	})
}

// FuzzFieldBlock: a block that passes is a list that any decoder reads the same way; one that does not is an error,
// and nothing else. The reader's own walk is never more lenient than the decoder.
func FuzzFieldBlock(f *testing.F) {
	for _, c := range appendixC {
		for _, block := range c.blocks {
			f.Add(unhex(f, block), []byte{0xbe})
		}
	}
	f.Add([]byte{0x3f, 0x45, 0x3f, 0xe1, 0x1f, 0x88}, []byte{0x20})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		cfg := &Config{MaxHeaderListSize: 1 << 10}
		r := testReader(t, nil, cfg)
		plain := hpack.NewDecoder(wire.HeaderTableSize, nil)
		for i, block := range [][]byte{first, second} {
			if i == 1 {
				r.settingsAcked()
			}
			err := r.decode(block)
			if i == 0 && err == nil && !twoUpdates(block) {
				want, err := plain.DecodeFull(block)
				if err != nil {
					t.Fatalf("%x: passed, and the decoder says %v", block, err)
				}
				for k, f := range r.fields {
					if f.Name != want[k].Name || f.Value != want[k].Value || f.Sensitive != want[k].Sensitive {
						t.Fatalf("%x: field %d is %v, want %v", block, k, f, want[k])
					}
				}
				if r.listSize <= r.limit && len(r.fields) != len(want) {
					t.Fatalf("%x: %d fields, want %d", block, len(r.fields), len(want))
				}
			}
			if err != nil {
				if _, ok := err.(*wire.Error); !ok {
					t.Fatalf("%x: %T", block, err)
				}
				return
			}
			if r.listSize > 2*r.limit {
				t.Fatalf("a list of %d octets passed", r.listSize)
			}
		}
	})
}

// twoUpdates: the decoder by itself takes no second table-size update where its table is not empty.
func twoUpdates(block []byte) bool {
	n := 0
	for len(block) > 0 && block[0]&0xe0 == 0x20 {
		_, block, _ = readInt(block, 5)
		n++
	}
	return n > 1
}

// FuzzConn: whatever a server sends behind its SETTINGS, a whole connection with a download, an upload and pushes
// under way comes to an end without a panic, a hang or a goroutine left over, and its books are right before that.
func FuzzConn(f *testing.F) {
	for _, p := range fuzzSeeds(f) {
		f.Add(p, uint8(0))
		f.Add(p, uint8(1))
	}
	for _, x := range faultExchanges {
		f.Add(x.octets(f), uint8(7))
	}
	f.Fuzz(func(t *testing.T, p []byte, chunk uint8) {
		if len(p) > 1<<20 {
			t.Skip()
		}
		synctest.Test(t, func(t *testing.T) {
			client, server := h2test.Pipe()
			client.SetChunk(int(chunk))
			conn, err := NewConn(context.Background(), client, &Config{
				Push: &PushPolicy{Max: 3}, Authority: "localhost", MaxHeaderListSize: 4 << 10, Trace: func(TraceEvent) {},
			})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			go func() { // three callers, one behind the other, so that streams have their numbers
				defer close(done)
				var streams []*Stream
				for _, req := range []*Request{
					{Body: strings.NewReader("")},
					{Method: "POST", Body: io.LimitReader(zeroReader{}, 3000), Trailer: Header{{Name: "a", Value: "b"}}},
					{Method: "HEAD", Body: strings.NewReader(""), Informational: func(int, Header) error { return nil }},
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
			server.Write(wire.AppendSettings(nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1000}))
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

// octets is all that the server of an exchange writes to a client that sends everything at once.
func (x faultExchange) octets(f *testing.F) []byte {
	client, nc := h2test.Pipe()
	nc.LogWrites()
	io.WriteString(client, wire.ClientPreface)
	for _, stream := range []uint32{1, 3, 5} {
		client.Write(rawFrame(wire.Headers, wire.EndHeaders, stream, nil))
		client.Write(wire.AppendData(nil, stream, wire.EndStream, make([]byte, 100)))
	}
	client.CloseWrite()
	x.server(newFaultServer(nc))
	return bytes.Join(nc.WriteLog(), nil)
}
