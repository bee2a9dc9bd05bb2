package hypertest

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// RFC 9113 §5.1: frames on a stream that we have reset are ignored, and frames on any other closed
// stream may be ignored. Such a frame does not end the connection. Both sides keep the same HPACK
// state, and the connection's window is given back.

// closings are the ways in which stream 1 is closed before the peer sends more frames on it.
var closings = []struct {
	name  string
	close func(t *testing.T, v *visit, peer *accepted)
}{
	{"its END_STREAM", func(t *testing.T, v *visit, peer *accepted) {
		resp := beginResponse(t, v, peer)
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "the whole body", resp.Body, "begin")
	}},
	{"its trailers", func(t *testing.T, v *visit, peer *accepted) {
		resp := beginResponse(t, v, peer)
		peer.WriteTrailers(1, "x-state: kept")
		h2test.WantBody(t, "the whole body", resp.Body, "begin")
	}},
	{"its RST_STREAM", func(t *testing.T, v *visit, peer *accepted) {
		resp := beginResponse(t, v, peer)
		peer.WriteRSTStream(1, wire.InternalError)
		synctest.Wait()
		resp.Body.Close()
	}},
	{"our RST_STREAM", func(t *testing.T, v *visit, peer *accepted) { closeBody(t, v, peer) }},
	{"our RST_STREAM, a PING and its answer", func(t *testing.T, v *visit, peer *accepted) {
		resp := closeBody(t, v, peer)
		own, _ := hyper.ResponseFromHTTP(resp)
		rtt := h2test.Go(func() (any, error) { return own.Stream().Conn().Ping(t.Context()) })
		peer.WritePing(wire.Ack, peer.WantPing("asked for", 0))
		rtt.Want(t, "the round trip")
	}},
}

// beginResponse sends a request on stream 1 and responds with a header and the first part of a
// body.
func beginResponse(t *testing.T, v *visit, peer *accepted) *http.Response {
	t.Helper()
	call := v.get("/")
	*peer = *v.accept()
	peer.Ignore(wire.WindowUpdate)
	peer.WantHeaders("the request", 1)
	if v.name == "Open" {
		peer.WantData("the end of the request", 1, wire.EndStream, 0)
	}
	peer.WriteHeaders(1, 0, ":status: 200", "x-state: kept")
	peer.WriteData(1, 0, []byte("begin"))
	return call.Want(t, "the response")
}

// closeBody calls beginResponse and closes the body before its end.
func closeBody(t *testing.T, v *visit, peer *accepted) *http.Response {
	t.Helper()
	resp := beginResponse(t, v, peer)
	resp.Body.Close()
	peer.WantRSTStream("the body was closed early", 1, wire.Cancel)
	return resp
}

// wantExchange requires that another request succeeds and that both sides still share the HPACK
// state.
func wantExchange(t *testing.T, v *visit, peer *h2test.Peer, id uint32) {
	t.Helper()
	call := v.get("/another")
	peer.WantHeaders("another request on the same connection", id, ":path: /another")
	if v.name == "Open" {
		peer.WantData("the end of the request", id, wire.EndStream, 0)
	}
	peer.WriteHeaders(id, 0, ":status: 200", "x-state: kept", "x-late: kept")
	peer.WriteData(id, wire.EndStream, []byte("another"))
	resp := call.Want(t, "another response")
	if resp.Header.Get("X-State") != "kept" || resp.Header.Get("X-Late") != "kept" {
		t.Errorf("the HPACK state is lost: %v", resp.Header)
	}
	h2test.WantBody(t, "another body", resp.Body, "another")
	peer.WantIdle("nothing was said to the frames on the closed stream")
}

func TestFramesOnAClosedStreamAreDiscarded(t *testing.T) {
	for _, c := range closings {
		t.Run(c.name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				peer := &accepted{}
				c.close(t, v, peer)
				synctest.Wait()
				before := peer.Credit(0)
				peer.WriteData(1, 0, make([]byte, 5000))
				peer.WritePaddedData(1, 0, make([]byte, 5000), 200)
				peer.WriteHeaders(1, 0, ":status: 200", "x-late: kept")
				peer.WriteHeadersSplit(1, wire.EndStream, 3, ":status: 200", "x-late: kept")
				peer.WriteWindowUpdate(1, 1000)
				peer.WriteRSTStream(1, wire.Cancel)
				peer.WriteTrailers(1, "x-late: kept")
				peer.WriteData(1, wire.EndStream, []byte("late"))
				wantExchange(t, v, peer.Peer, 3)
				for range 40 { // the client grants credit when half of the window is used, or earlier
					peer.WriteData(1, 0, make([]byte, 16<<10))
					synctest.Wait()
				}
				if now := peer.Credit(0); now < before-(32<<20) {
					t.Errorf("the connection's window went from %d to %d", before, now)
				}
				wantExchange(t, v, peer.Peer, 5)
			})
		})
	}
}

// A stream that we have reset keeps its window, because the peer may still use it. RFC 9113 §6.9.1:
// more DATA than that is FLOW_CONTROL_ERROR.
func TestDataOnAResetStreamIsBoundByItsWindow(t *testing.T) {
	eachDoor(t, hyper.Config{InitialStreamWindow: 100_000}, func(t *testing.T, v *visit) {
		peer := &accepted{}
		own, _ := hyper.ResponseFromHTTP(closeBody(t, v, peer))
		left := peer.Credit(1)
		if left < 90_000 {
			t.Fatalf("%d octets of the window are left", left)
		}
		for n := left; n > 0; n -= min(n, 16<<10) {
			peer.WriteData(1, 0, make([]byte, min(n, 16<<10)))
		}
		peer.WriteData(1, 0, nil) // an empty frame needs no window
		peer.WantIdle("all of it was under way, perhaps")
		peer.WriteData(1, 0, []byte{0})
		conn := own.Stream().Conn()
		<-conn.Done()
		if err := conn.Err(); !errors.Is(err, hyper.ErrCodeFlowControl) {
			t.Errorf("one octet too many: %v", err)
		}
	})
}

// floodData sends frames of n bytes of DATA on a stream until the connection ends or 256 MiB are
// sent. It returns how many bytes the peer sent.
func floodData(peer *h2test.Peer, conn *hyper.Conn, stream uint32, n int) (sent int) {
	data := make([]byte, n)
	for sent < 256<<20 && conn.Err() == nil {
		peer.Batch(func() {
			for range max(1, 64<<10/(n+1)) {
				peer.WriteData(stream, 0, data)
				sent += n
			}
		})
		synctest.Wait()
	}
	return sent
}

// DATA on a stream that is closed and forgotten is bounded for the connection as a whole.
func TestDataOnForgottenStreamsIsBounded(t *testing.T) {
	for name, close := range map[string]func(t *testing.T, peer *h2test.Peer, conn *hyper.Conn){
		"its END_STREAM": func(t *testing.T, peer *h2test.Peer, conn *hyper.Conn) {
			resp := getAsync(conn, "/")
			peer.WantHeaders("the request", 1)
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			resp.Want(t, "the response")
		},
		"its RST_STREAM": func(t *testing.T, peer *h2test.Peer, conn *hyper.Conn) {
			resp := getAsync(conn, "/")
			peer.WantHeaders("the request", 1)
			peer.WriteRSTStream(1, wire.Cancel)
			resp.WantErr(t, "reset")
		},
		"our RST_STREAM and an answered PING": func(t *testing.T, peer *h2test.Peer, conn *hyper.Conn) {
			s, err := conn.Open(t.Context(), &hyper.Request{})
			if err != nil {
				t.Fatal(err)
			}
			peer.WantHeaders("the request", 1)
			s.Reset(hyper.ErrCodeCancel)
			peer.WantRSTStream("ours", 1, wire.Cancel)
			rtt := h2test.Go(func() (any, error) { return conn.Ping(t.Context()) })
			peer.WritePing(wire.Ack, peer.WantPing("asked for", 0))
			rtt.Want(t, "the round trip")
		},
	} {
		for _, size := range []int{1, 1000, 16 << 10, 256 << 10} {
			t.Run(fmt.Sprintf("%s, %d octets", name, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := dialPeer(t, nil)
					peer.Ignore(wire.WindowUpdate)
					close(t, peer, conn)
					if sent := floodData(peer, conn, 1, size); sent > 12<<20 || size >= 1000 && sent < 2<<20 {
						t.Errorf("%d octets were taken", sent)
					}
					if err := conn.Err(); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
						t.Errorf("the connection: %v", err)
					}
					peer.WantGoAway("too much that was not asked for", 0, wire.EnhanceYourCalm)
				})
			})
		}
	}
}

// Field sections on a closed stream are still decoded, for the HPACK state. This work is bounded
// too.
func TestHeadersOnClosedStreamsAreBounded(t *testing.T) {
	for _, reset := range []bool{false, true} {
		t.Run(fmt.Sprintf("reset %v", reset), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				peer.Ignore(wire.WindowUpdate)
				s, err := conn.Open(t.Context(), &hyper.Request{})
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				if reset {
					s.Reset(hyper.ErrCodeCancel)
					peer.WantRSTStream("ours", 1, wire.Cancel)
				} else {
					peer.WriteRSTStream(1, wire.Cancel)
				}
				block := append([]byte{0x88}, bytes.Repeat(append([]byte("\x00\x01x\x7f\x81\x1e"),
					bytes.Repeat([]byte{'v'}, 3968)...), 8)...)
				h := wire.FrameHeader{Length: len(block), Type: wire.Headers, Flags: wire.EndHeaders,
					StreamID: 1}
				sent := 0
				for conn.Err() == nil && sent < 256<<20 {
					peer.WriteFrame(h, block)
					sent += len(block)
					synctest.Wait()
				}
				if sent > 16<<20 || !errors.Is(conn.Err(), hyper.ErrCodeEnhanceYourCalm) {
					t.Errorf("%d octets of field sections were taken, then: %v", sent, conn.Err())
				}
			})
		})
	}
}

// PRIORITY is the only frame whose wrong size does not end the connection. The budget for useless
// frames charges such a frame for its bytes.
func TestPriorityOfAnySizeOnClosedStreamsIsBounded(t *testing.T) {
	for _, size := range []int{0, 4, 6, 16 << 10, 256 << 10} {
		t.Run(fmt.Sprintf("%d octets", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				whole := getAsync(conn, "/")
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, wire.EndStream, ":status: 204")
				whole.Want(t, "the response")
				h := wire.FrameHeader{Length: size, Type: wire.Priority, StreamID: 1}
				payload := make([]byte, size)
				sent := 0
				for conn.Err() == nil && sent < 64<<20 {
					peer.WriteFrame(h, payload)
					sent += wire.HeaderLen + size
					synctest.Wait()
				}
				if sent > 12<<20 || !errors.Is(conn.Err(), hyper.ErrCodeEnhanceYourCalm) {
					t.Errorf("%d octets were taken, then: %v", sent, conn.Err())
				}
			})
		})
	}
}

// A pushed stream that we refused, or that has ended, is treated like any other closed stream.
func TestFramesOnAClosedPushAreDiscarded(t *testing.T) {
	for name, end := range map[string]func(peer *h2test.Peer, push *hyper.Push){
		"refused": func(peer *h2test.Peer, push *hyper.Push) {
			push.Cancel()
			peer.WantRSTStream("it was refused", 2, wire.Cancel)
		},
		"ended by its END_STREAM": func(peer *h2test.Peer,
			push *hyper.Push) {
			peer.WriteHeaders(2, wire.EndStream, ":status: 204")
		},
		"ended by its RST_STREAM": func(peer *h2test.Peer,
			push *hyper.Push) {
			peer.WriteRSTStream(2, wire.Cancel)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example"})
				peer.Ignore(wire.WindowUpdate)
				parent := getAsync(conn, "/")
				peer.WantHeaders("the parent", 1)
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WritePushPromise(1, 2, ":method: GET", ":scheme: http", ":authority: own.example",
					":path: /pushed")
				for push, err := range parent.Want(t, "the parent's response").Pushes(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					end(peer, push)
					break
				}
				peer.WriteHeaders(2, 0, ":status: 200", "x-late: kept")
				peer.WriteData(2, 0, make([]byte, 5000))
				peer.WriteTrailers(2, "x-late: kept")
				peer.WriteData(2, wire.EndStream, []byte("late"))
				peer.WantIdle("all of that is discarded")
				if err := conn.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// RFC 9113 §5.1: PUSH_PROMISE reserves its stream even if the parent stream is closed. The client
// may have forgotten a parent that it has reset, so it refuses the promise. A promise on a parent
// that the peer has ended is PROTOCOL_ERROR (§6.6).
func TestPromiseOnAForgottenParentIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example"})
		peer.Ignore(wire.WindowUpdate)
		promise := func(parent, promised uint32) {
			peer.WritePushPromise(parent, promised, ":method: GET", ":scheme: http",
				":authority: own.example", ":path: /pushed")
		}
		s, err := conn.Open(t.Context(), &hyper.Request{})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the parent", 1)
		s.Reset(hyper.ErrCodeCancel)
		peer.WantRSTStream("ours", 1, wire.Cancel)
		rtt := h2test.Go(func() (any, error) { return conn.Ping(t.Context()) })
		peer.WritePing(wire.Ack, peer.WantPing("asked for", 0))
		rtt.Want(t, "the round trip")
		promise(1, 2)
		peer.WantRSTStream("it cannot be claimed", 2, wire.Cancel)
		whole := getAsync(conn, "/")
		peer.WantHeaders("another parent", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		whole.Want(t, "it has ended")
		promise(3, 4)
		peer.WantGoAway("the peer itself has ended the parent", 2, wire.ProtocolError)
	})
}

// RFC 9113 §6.9.1: an empty DATA frame needs no window, even if the window is below 0 (§6.9.2).
func TestEmptyDataOnAResetStreamNeedsNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{InitialStreamWindow: 1000,
			WindowManager: func(*hyper.Window) hyper.WindowManager { return nil }})
		s, err := conn.Open(t.Context(), &hyper.Request{})
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 900))
		smaller := h2test.Go(func() (any, error) {
			return nil, conn.UpdateSettings(t.Context(),
				hyper.Setting{ID: hyper.SettingInitialWindowSize, Value: 10})
		})
		peer.WantFrame("a smaller window", wire.Settings)
		peer.WriteSettingsAck()
		smaller.Want(t, "the stream's window is -890 now")
		s.Reset(hyper.ErrCodeCancel)
		peer.WantRSTStream("ours", 1, wire.Cancel)
		peer.WriteData(1, wire.EndStream, nil)
		peer.WantIdle("it is discarded")
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}
