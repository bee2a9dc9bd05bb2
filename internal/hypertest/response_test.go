// This file tests responses: header, body, content-length, and trailers.

package hypertest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// answerGet sends GET, which becomes stream id, and responds with a header. The test sends the
// body.
func answerGet(t *testing.T, peer *h2test.Peer, conn *hyper.Conn, id uint32,
	fields ...string) *hyper.Response {
	t.Helper()
	got := getAsync(conn, "/")
	peer.WantHeaders("the request", id)
	peer.WriteHeaders(id, 0, fields...)
	return got.Want(t, "the response")
}

// giveBack returns a manager that grants every byte again as soon as it is consumed. What is
// missing from the peer's credit then is held, or lost.
func giveBack(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return ev.Consumed() })
}

func TestResponseKeepsOrderAndDuplicatesOfItsHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 418", "set-cookie: b=2", "x-last: 1", "set-cookie: a=1",
			"x-empty: ")
		want := hyper.Header{{Name: "set-cookie", Value: "b=2"}, {Name: "x-last", Value: "1"},
			{Name: "set-cookie", Value: "a=1"}, {Name: "x-empty"}}
		if resp.StatusCode != 418 || resp.StreamID != 1 || resp.Stream().ID() != 1 ||
			!slices.Equal(resp.Header, want) {
			t.Errorf("got %d on stream %d with %v, want 418 with %v", resp.StatusCode, resp.StreamID,
				resp.Header, want)
		}
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "nothing", resp.Body, "")
	})
}

func TestContentLengthIsWhatWasDeclared(t *testing.T) {
	for _, c := range []struct {
		name   string
		method string
		flags  wire.Flags
		fields []string
		want   int64
	}{
		{"declared", "GET", 0, []string{":status: 200", "content-length: 5"}, 5},
		{"unknown", "GET", 0, []string{":status: 200"}, -1},
		{"END_STREAM says 0", "GET", wire.EndStream, []string{":status: 200"}, 0},
		{"declared 0", "GET", wire.EndStream, []string{":status: 200", "content-length: 0"}, 0},
		{"the largest", "GET", 0, []string{":status: 200", "content-length: 9223372036854775807"}, 1<<63 - 1},
		{"HEAD, what GET would get", "HEAD", wire.EndStream, []string{":status: 200", "content-length: 5"},
			5},
		{"HEAD, unknown", "HEAD", wire.EndStream, []string{":status: 200"}, -1},
		{"304, what 200 would have", "GET", wire.EndStream, []string{":status: 304", "content-length: 5"}, 5},
		{"204", "GET", wire.EndStream, []string{":status: 204"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := doAsync(t.Context(), conn, &hyper.Request{Method: c.method})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, c.flags, c.fields...)
				resp := got.Want(t, "the response")
				if resp.ContentLength != c.want {
					t.Errorf("ContentLength %d, want %d", resp.ContentLength, c.want)
				}
				if c.flags.Has(wire.EndStream) {
					h2test.WantBody(t, "no body", resp.Body, "")
				}
			})
		})
	}
}

// RFC 9110 §6.4.1: responses to HEAD, and responses with 204 and 304, have no content, whatever
// their fields say.
func TestResponseWithoutBodyEndsWhateverItDeclares(t *testing.T) {
	for _, c := range [][2]string{{"HEAD", "200"}, {"GET", "204"}, {"GET", "304"}} {
		t.Run(c[0]+c[1], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := doAsync(t.Context(), conn, &hyper.Request{Method: c[0]})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: "+c[1], "content-length: 10", "content-encoding: gzip")
				resp := got.Want(t, "the response")
				peer.WriteData(1, wire.EndStream, nil)
				h2test.WantBody(t, "and no octet of gzip is looked for", resp.Body, "")
				if resp.Uncompressed {
					t.Error("there is nothing to decode")
				}
				peer.WantIdle("nothing is wrong with that")
			})
		})
	}
}

func TestBodyWhereThereMustBeNoneIsMalformed(t *testing.T) {
	for _, c := range [][2]string{{"HEAD", "200"}, {"GET", "204"}, {"GET", "304"}} {
		t.Run(c[0]+c[1], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
				got := doAsync(t.Context(), conn, &hyper.Request{Method: c[0]})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: "+c[1], "content-length: 10")
				resp := got.Want(t, "the response")
				peer.WriteData(1, wire.EndStream, []byte("ten octets"))
				peer.Ignore(wire.WindowUpdate)
				peer.WantRSTStream("a body", 1, wire.ProtocolError)
				_, err := io.ReadAll(resp.Body)
				wantMalformedError(t, err, 1)
				if !strings.Contains(err.Error(), "a body in a response to "+c[0]) {
					t.Errorf("%v does not say what is wrong", err)
				}
				h2test.WantFullCredit(t, peer, "refused octets count for the connection")
			})
		})
	}
}

// wantMalformedError requires that err is the error of a stream that broke RFC 9113 §8.
func wantMalformedError(t *testing.T, err error, stream uint32) {
	t.Helper()
	var s *hyper.StreamError
	var m *hyper.MalformedError
	if !errors.As(err, &s) || !errors.As(err, &m) || !errors.Is(err, hyper.ErrCodeProtocol) {
		t.Fatalf("got %v (%T), want a StreamError of PROTOCOL_ERROR with a MalformedError", err, err)
	}
	if s.StreamID != stream || s.FromPeer || hyper.Retryable(err) {
		t.Errorf("%v: stream %d, FromPeer %v, Retryable %v", err, s.StreamID, s.FromPeer,
			hyper.Retryable(err))
	}
}

// RFC 9113 §8.1.1: a content-length that is not the sum of the DATA payloads makes a response
// malformed.
func TestBodyLongerThanItsContentLengthIsMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 5")
		peer.WriteData(1, 0, []byte("123"))
		read := make([]byte, 3)
		if n, err := io.ReadFull(resp.Body, read); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		peer.WriteData(1, wire.EndStream, []byte("456"))
		peer.WantRSTStream("6 octets of 5", 1, wire.ProtocolError)
		for range 2 {
			_, err := resp.Body.Read(read)
			wantMalformedError(t, err, 1)
		}
		h2test.WantFullCredit(t, peer, "all 6 come back")
	})
}

func TestBodyShorterThanItsContentLengthIsReadAndNeverEnds(t *testing.T) {
	for _, how := range []string{"HEADERS", "DATA", "empty DATA", "trailers"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
				peer.Ignore(wire.WindowUpdate)
				got := getAsync(conn, "/")
				peer.WantHeaders("the request", 1)
				came := "1234"
				if how == "HEADERS" {
					came = ""
					peer.WriteHeaders(1, wire.EndStream, ":status: 200", "content-length: 5")
				} else {
					peer.WriteHeaders(1, 0, ":status: 200", "content-length: 5")
				}
				resp := got.Want(t, "the response")
				switch how {
				case "DATA":
					peer.WriteData(1, wire.EndStream, []byte("1234"))
				case "empty DATA":
					peer.WriteData(1, 0, []byte("1234"))
					peer.WriteData(1, wire.EndStream, nil)
				case "trailers":
					peer.WriteData(1, 0, []byte("1234"))
					peer.WriteTrailers(1, "x-sum: 1")
				}
				peer.WantRSTStream("less than 5 octets", 1, wire.ProtocolError)
				read, err := io.ReadAll(resp.Body)
				if string(read) != came {
					t.Errorf("read %q, want what came, %q", read, came)
				}
				wantMalformedError(t, err, 1)
				_, err = resp.Body.Read(make([]byte, 1))
				wantMalformedError(t, err, 1)
				if resp.Trailer() != nil {
					t.Error("trailers of a body that never ended")
				}
				h2test.WantFullCredit(t, peer, "all was read")
				peer.WantIdle("and nothing else")
			})
		})
	}
}

func TestShortUnreadBodyGivesItsCreditBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 5")
		peer.WriteData(1, wire.EndStream, []byte("1234"))
		peer.WantRSTStream("4 octets of 5", 1, wire.ProtocolError)
		resp.Body.Close()
		_, err := resp.Body.Read(make([]byte, 1))
		wantMalformedError(t, err, 1)
		h2test.WantFullCredit(t, peer, "the rest is dropped")
	})
}

func TestTrailersAreReadableOnceTheBodyWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, []byte("body"))
		peer.WriteTrailers(1, "x-sum: 1", "x-sum: 2")
		synctest.Wait()
		if got := resp.Trailer(); got != nil {
			t.Errorf("before the body was read: %v", got)
		}
		h2test.WantBody(t, "the body", resp.Body, "body")
		want := hyper.Header{{Name: "x-sum", Value: "1"}, {Name: "x-sum", Value: "2"}}
		if got := resp.Trailer(); !slices.Equal(got, want) {
			t.Errorf("trailers %v, want %v", got, want)
		}
		resp.Body.Close()
		if got := resp.Trailer(); !slices.Equal(got, want) {
			t.Errorf("after Close: trailers %v, want %v", got, want)
		}
	})
}

func TestMisplacedPartOfAResponseIsMalformed(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts func(peer *h2test.Peer)
	}{
		{"DATA before HEADERS", func(p *h2test.Peer) { p.WriteData(1, 0, []byte("x")) }},
		{"END_STREAM before HEADERS", func(p *h2test.Peer) { p.WriteData(1, wire.EndStream, nil) }},
		{"trailers without END_STREAM", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteHeaders(1, 0, "x-sum: 1")
		}},
		{"trailers with :status", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteTrailers(1, ":status: 200")
		}},
		{"trailers with a bad field", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteTrailers(1, "X-Sum: 1")
		}},
		{"a second response", func(p *h2test.Peer) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteHeaders(1, 0, ":status: 200")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				s, err := conn.Open(t.Context(), &hyper.Request{}) // our side of the stream stays open
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				c.parts(peer)
				peer.WantRSTStream(c.name, 1, wire.ProtocolError)
				_, err = s.Response(t.Context())
				wantMalformedError(t, err, 1)
				_, err = s.Write([]byte("x"))
				wantMalformedError(t, err, 1)
				peer.WantIdle("and nothing else")
			})
		})
	}
}

// RFC 9113 §5.1: a frame after END_STREAM is a STREAM_CLOSED error. It is a stream error while our
// side of the stream is open.
func TestFrameBehindTheEndIsStreamClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		s, _ := conn.Open(t.Context(), &hyper.Request{})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteTrailers(1, "x-sum: 1")
		synctest.Wait()
		peer.WriteTrailers(1, "x-sum: 2")
		peer.WantRSTStream("HEADERS behind trailers", 1, wire.StreamClosed)
		if _, err := s.Write([]byte("x")); !errors.Is(err, hyper.ErrCodeStreamClosed) {
			t.Errorf("Write: %v", err)
		}
		peer.WriteData(1, 0, []byte("late"))
		h2test.WantFullCredit(t, peer, "late DATA")
	})
}

func TestFrameOnAStreamThatIsOverIsDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, wire.EndStream, []byte("all"))
		synctest.Wait()
		peer.WriteTrailers(1, "x-sum: 1")
		peer.WantIdle("it may be discarded (RFC 9113 §5.1)")
		h2test.WantBody(t, "what was whole stays so", resp.Body, "all")
		if len(resp.Trailer()) > 0 {
			t.Errorf("trailers that came behind the end: %v", resp.Trailer())
		}
	})
}

func TestBodyComesWholeFromAnyFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 3000")
		var want []byte
		for i := range 1000 {
			octets := fmt.Appendf(nil, "%03d", i)
			want = append(want, octets...)
			peer.WriteData(1, 0, octets)
			peer.WriteData(1, 0, nil)
		}
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "1,000 frames and as many empty ones", resp.Body, string(want))
	})
}

func TestHeaderAndBodyAreOneWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, 0, []byte("he"))
			peer.WriteData(1, wire.EndStream, []byte("llo"))
		})
		resp := got.Want(t, "the response")
		read := make([]byte, 10)
		if n, err := resp.Body.Read(read); string(read[:n]) != "hello" || err != nil {
			t.Errorf("the first Read gives %q, %v, want all that is there", read[:n], err)
		}
	})
}

// A reader must get its response even if the peer's next frames, for others, are incomplete.
func TestReaderIsWokenWhateverFollows(t *testing.T) {
	for _, c := range []struct {
		name   string
		follow func(peer *h2test.Peer)
	}{
		{"a frame of the wrong size", func(p *h2test.Peer) {
			p.WriteFrame(wire.FrameHeader{Length: 4, Type: wire.Priority, StreamID: 3}, make([]byte, 4))
		}},
		{"half a frame header", func(p *h2test.Peer) { p.WriteRaw(make([]byte, 4)) }},
		{"the header of padded DATA", func(p *h2test.Peer) {
			p.WriteRaw(wire.AppendFrameHeader(nil,
				wire.FrameHeader{Length: 5, Type: wire.Data, Flags: wire.Padded, StreamID: 3}))
		}},
		{"a field block without its end", func(p *h2test.Peer) {
			p.WriteRaw(wire.AppendFrameHeader(nil,
				wire.FrameHeader{Length: 0, Type: wire.Headers, StreamID: 3}))
		}},
		{"half an unknown frame", func(p *h2test.Peer) {
			p.WriteRaw(append(wire.AppendFrameHeader(nil, wire.FrameHeader{Length: 5, Type: 0x77}), 1))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := getAsync(conn, "/")
				peer.WantHeaders("the request", 1)
				other := getAsync(conn, "/other")
				peer.WantHeaders("another", 3)
				peer.Batch(func() {
					peer.WriteHeaders(1, 0, ":status: 200")
					c.follow(peer)
				})
				got.WantReturned(t, "the response waits")
				conn.Close()
				<-got.Done
				<-other.Done
			})
		})
	}
}
