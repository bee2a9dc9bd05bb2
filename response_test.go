package hyper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// answerGet sends GET, which becomes stream id, and responds with a header. The test sends the
// body.
func answerGet(t *testing.T, peer *h2test.Peer, conn *Conn, id uint32, fields ...string) *Response {
	t.Helper()
	got := getAsync(conn, "/")
	peer.WantHeaders("the request", id)
	peer.WriteHeaders(id, 0, fields...)
	return got.want(t, "the response")
}

// giveBack returns a manager that grants every byte again as soon as it is consumed. What is
// missing from the peer's credit then is held, or lost.
func giveBack(*Window) WindowManager {
	return WindowManagerFunc(func(ev WindowEvent) int { return ev.Consumed() })
}

// wantFullCredit requires that the peer may send all of a giveBack connection's window again.
func wantFullCredit(t *testing.T, peer *h2test.Peer, reason string) {
	t.Helper()
	synctest.Wait()
	if n := peer.Credit(0); n != wire.InitialWindow {
		t.Fatalf("%s: the connection's window is %d, want %d\n%s", reason, n, wire.InitialWindow, peer.Log())
	}
}

func TestResponseKeepsOrderAndDuplicatesOfItsHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 418", "set-cookie: b=2", "x-last: 1", "set-cookie: a=1",
			"x-empty: ")
		want := Header{{Name: "set-cookie", Value: "b=2"}, {Name: "x-last", Value: "1"},
			{Name: "set-cookie", Value: "a=1"}, {Name: "x-empty"}}
		if resp.StatusCode != 418 || resp.StreamID != 1 || resp.Stream().ID() != 1 ||
			!slices.Equal(resp.Header, want) {
			t.Errorf("got %d on stream %d with %v, want 418 with %v", resp.StatusCode, resp.StreamID,
				resp.Header, want)
		}
		peer.WriteData(1, wire.EndStream, nil)
		wantBody(t, "nothing", resp.Body, "")
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
				got := doAsync(t.Context(), conn, &Request{Method: c.method})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, c.flags, c.fields...)
				resp := got.want(t, "the response")
				if resp.ContentLength != c.want {
					t.Errorf("ContentLength %d, want %d", resp.ContentLength, c.want)
				}
				if c.flags.Has(wire.EndStream) {
					wantBody(t, "no body", resp.Body, "")
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
				got := doAsync(t.Context(), conn, &Request{Method: c[0]})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: "+c[1], "content-length: 10", "content-encoding: gzip")
				resp := got.want(t, "the response")
				peer.WriteData(1, wire.EndStream, nil)
				wantBody(t, "and no octet of gzip is looked for", resp.Body, "")
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
				peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
				got := doAsync(t.Context(), conn, &Request{Method: c[0]})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: "+c[1], "content-length: 10")
				resp := got.want(t, "the response")
				peer.WriteData(1, wire.EndStream, []byte("ten octets"))
				peer.Ignore(wire.WindowUpdate)
				peer.WantRSTStream("a body", 1, wire.ProtocolError)
				_, err := io.ReadAll(resp.Body)
				wantMalformed(t, err, 1)
				if !strings.Contains(err.Error(), "a body in a response to "+c[0]) {
					t.Errorf("%v does not say what is wrong", err)
				}
				wantFullCredit(t, peer, "refused octets count for the connection")
			})
		})
	}
}

// wantMalformed requires that err is the error of a stream that broke RFC 9113 §8.
func wantMalformed(t *testing.T, err error, stream uint32) {
	t.Helper()
	var s *StreamError
	var m *MalformedError
	if !errors.As(err, &s) || !errors.As(err, &m) || !errors.Is(err, ErrCodeProtocol) {
		t.Fatalf("got %v (%T), want a StreamError of PROTOCOL_ERROR with a MalformedError", err, err)
	}
	if s.StreamID != stream || s.FromPeer || Retryable(err) {
		t.Errorf("%v: stream %d, FromPeer %v, Retryable %v", err, s.StreamID, s.FromPeer, Retryable(err))
	}
}

// RFC 9113 §8.1.1: a content-length that is not the sum of the DATA payloads makes a response
// malformed.
func TestBodyLongerThanItsContentLengthIsMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
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
			wantMalformed(t, err, 1)
		}
		wantFullCredit(t, peer, "all 6 come back")
	})
}

func TestBodyShorterThanItsContentLengthIsReadAndNeverEnds(t *testing.T) {
	for _, how := range []string{"HEADERS", "DATA", "empty DATA", "trailers"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
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
				resp := got.want(t, "the response")
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
				wantMalformed(t, err, 1)
				_, err = resp.Body.Read(make([]byte, 1))
				wantMalformed(t, err, 1)
				if resp.Trailer() != nil {
					t.Error("trailers of a body that never ended")
				}
				wantFullCredit(t, peer, "all was read")
				peer.WantIdle("and nothing else")
			})
		})
	}
}

func TestShortBodyThatNobodyReadsGivesItsCreditBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-length: 5")
		peer.WriteData(1, wire.EndStream, []byte("1234"))
		peer.WantRSTStream("4 octets of 5", 1, wire.ProtocolError)
		resp.Body.Close()
		_, err := resp.Body.Read(make([]byte, 1))
		wantMalformed(t, err, 1)
		wantFullCredit(t, peer, "the rest is dropped")
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
		wantBody(t, "the body", resp.Body, "body")
		want := Header{{Name: "x-sum", Value: "1"}, {Name: "x-sum", Value: "2"}}
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
				s, err := conn.Open(t.Context(), &Request{}) // our side of the stream stays open
				if err != nil {
					t.Fatal(err)
				}
				peer.WantHeaders("the request", 1)
				c.parts(peer)
				peer.WantRSTStream(c.name, 1, wire.ProtocolError)
				_, err = s.Response(t.Context())
				wantMalformed(t, err, 1)
				_, err = s.Write([]byte("x"))
				wantMalformed(t, err, 1)
				peer.WantIdle("and nothing else")
			})
		})
	}
}

// RFC 9113 §5.1: a frame after END_STREAM is a STREAM_CLOSED error. It is a stream error while our
// side of the stream is open.
func TestFrameBehindTheEndIsStreamClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		s, _ := conn.Open(t.Context(), &Request{})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteTrailers(1, "x-sum: 1")
		synctest.Wait()
		peer.WriteTrailers(1, "x-sum: 2")
		peer.WantRSTStream("HEADERS behind trailers", 1, wire.StreamClosed)
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrCodeStreamClosed) {
			t.Errorf("Write: %v", err)
		}
		peer.WriteData(1, 0, []byte("late"))
		wantFullCredit(t, peer, "late DATA")
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
		wantBody(t, "what was whole stays so", resp.Body, "all")
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
		wantBody(t, "1,000 frames and as many empty ones", resp.Body, string(want))
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
		resp := got.want(t, "the response")
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
				synctest.Wait()
				select {
				case <-got.done:
				default:
					t.Error("the response waits")
				}
				conn.Close()
				<-got.done
				<-other.done
			})
		})
	}
}

func TestInterimResponsesAreShownInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var seen []string
		got := doAsync(t.Context(), conn, &Request{Informational: func(status int, header Header) error {
			seen = append(seen, fmt.Sprint(status, header))
			return nil
		}})
		peer.WantHeaders("the request", 1)
		// RFC 9110 §15.2: a client must be able to parse a 1xx response that it did not expect.
		peer.WriteHeaders(1, 0, ":status: 100")
		peer.WriteHeaders(1, 0, ":status: 103", "link: </a>")
		synctest.Wait()
		if len(seen) != 2 {
			t.Errorf("seen before the final response: %q", seen)
		}
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 103", "link: </b>", "link: </c>")
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		})
		if resp := got.want(t, "the response"); resp.StatusCode != 200 || len(resp.Header) != 0 {
			t.Errorf("status %d, header %v", resp.StatusCode, resp.Header)
		}
		want := []string{"100 []", "103 [{link </a> false}]", "103 [{link </b> false} {link </c> false}]"}
		if !slices.Equal(seen, want) {
			t.Errorf("seen %q, want %q", seen, want)
		}
	})
}

func TestInformationalErrorEndsTheRequest(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
				peer.Ignore(wire.WindowUpdate)
				stop := errors.New("seen enough")
				got := doAsync(t.Context(), conn, &Request{Informational: func(int,
					Header) error {
					return stop
				}})
				peer.WantHeaders("the request", 1)
				peer.Batch(func() {
					peer.WriteHeaders(1, 0, ":status: 103")
					if whole {
						peer.WriteHeaders(1, 0, ":status: 200")
						peer.WriteData(1, wire.EndStream, []byte("this is not read"))
					}
				})
				if err := got.wantErr(t, "the callback's error"); !errors.Is(err, stop) {
					t.Errorf("got %v", err)
				}
				if !whole {
					peer.WantRSTStream("the caller wants no more", 1, wire.Cancel)
				}
				peer.WantIdle("nothing else")
				wantFullCredit(t, peer, "the body cannot be read any more")
			})
		})
	}
}

func TestInformationalErrorStaysWithTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		stop := errors.New("seen enough")
		s, _ := conn.Open(t.Context(), &Request{Informational: func(int, Header) error { return stop }})
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 103")
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		})
		for range 2 {
			if _, err := s.Response(t.Context()); !errors.Is(err, stop) {
				t.Errorf("Response: %v", err)
			}
		}
		peer.WantRSTStream("our side is still open", 1, wire.Cancel)
	})
}

// Informational may panic, for example in a handler that passes the response on, and a caller may
// recover from that. It may also call runtime.Goexit, as a test does that fails.
func TestPanicOfInformationalIsTheCallers(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("own") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
				peer.Ignore(wire.WindowUpdate)
				req := &Request{Informational: func(int, Header) error { end(); return nil }}
				for i, whole := range []bool{false, true} {
					var caught any
					done := make(chan struct{})
					go func() {
						defer close(done)
						defer func() { caught = recover() }()
						conn.Do(context.Background(), req)
					}()
					id := uint32(2*i + 1)
					peer.WantHeaders("the request", id)
					peer.Batch(func() {
						peer.WriteHeaders(id, 0, ":status: 103")
						if whole {
							peer.WriteHeaders(id, 0, ":status: 200")
							peer.WriteData(id, wire.EndStream, []byte("this is not read"))
						}
					})
					if <-done; (caught != nil) != (name == "panic") {
						t.Errorf("caught %v", caught)
					}
					if !whole {
						peer.WantRSTStream("no call waits for the response", id, wire.Cancel)
					}
				}
				got := getAsync(conn, "/")
				peer.WantHeaders("the next request", 5)
				peer.WriteHeaders(5, wire.EndStream, ":status: 200")
				got.want(t, "the connection is as it was")
				wantFullCredit(t, peer, "the body cannot be read any more")
			})
		})
	}
}

// As with net/http, the body is sent when the caller's Informational has accepted 100 (Continue).
// It is not sent if Informational returns an error.
func TestBodyWaitsUntilItsCallerKnowsOf100(t *testing.T) {
	for _, refused := range []error{nil, errors.New("seen enough")} {
		t.Run(fmt.Sprint(refused), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				answer := make(chan error)
				got := doAsync(t.Context(), conn, &Request{
					Method: "POST", Header: Header{{Name: "expect", Value: "100-continue"}},
					Body:          strings.NewReader("hello"),
					Informational: func(int, Header) error { return <-answer },
				})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 100")
				peer.WantIdle("the caller has not said what it thinks of it")
				if answer <- refused; refused != nil {
					peer.WantRSTStream("the caller wants no more", 1, wire.Cancel)
					got.wantErr(t, "the callback's error")
					return
				}
				peer.WantBody("it may go", 1, []byte("hello"))
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				got.want(t, "the response")
			})
		})
	}
}

// The headers of several responses share one block of memory. A field that is added to one header
// must not change the next one.
func TestAddedFieldsStayWithTheirResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var responses []*Response
		for id := uint32(1); id < 20; id += 2 {
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "a: 1", "b: 2")
			responses = append(responses, got.want(t, "the response"))
		}
		for _, resp := range responses {
			resp.Header.Add("c", "3")
		}
		for _, resp := range responses {
			if want := (Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"},
				{Name: "c", Value: "3"}}); !slices.Equal(resp.Header, want) {
				t.Errorf("stream %d: %v", resp.StreamID, resp.Header)
			}
		}
	})
}

// An interim response is not shown after the caller has ended its stream.
func TestInterimResponseIsNotShownBehindReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, _ := conn.Open(t.Context(), &Request{Informational: func(status int, _ Header) error {
			t.Errorf("%d was shown", status)
			return nil
		}})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 103")
		synctest.Wait()
		s.Reset(ErrCodeCancel)
		if _, err := s.Response(t.Context()); !errors.Is(err, ErrCanceled) {
			t.Errorf("Response: %v", err)
		}
	})
}

// A body that was read to its end is read without the lock, but still returns ErrClosed after
// Close.
func TestWholeBodyAnswersErrClosedBehindClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, wire.EndStream, []byte("hello"))
		})
		body := got.want(t, "the response").Body
		wantBody(t, "the body", body, "hello")
		wantBody(t, "and its end, again", body, "")
		conn.Close()
		if n, err := body.Read(make([]byte, 1)); n != 0 || err != ErrClosed {
			t.Errorf("Read: %d, %v", n, err)
		}
	})
}

// RFC 9113 §8.2, §8.3.2 say what makes a response malformed.
func TestMalformedResponseEndsOnlyItsStream(t *testing.T) {
	status := hpack.HeaderField{Name: ":status", Value: "200"}
	list := func(fields ...hpack.HeaderField) []hpack.HeaderField { return fields }
	field := func(name, value string) []hpack.HeaderField {
		return list(status, hpack.HeaderField{Name: name, Value: value})
	}
	statusOf := func(value string) []hpack.HeaderField {
		return list(hpack.HeaderField{Name: ":status",
			Value: value})
	}
	for _, c := range []struct {
		name   string
		fields []hpack.HeaderField
		flags  wire.Flags
	}{
		{"§8.2.1 upper-case name", field("X-Name", "v"), 0},
		{"§8.2.1 empty name", field("", "v"), 0},
		{"§8.2.1 blank in a name", field("x name", "v"), 0},
		{"§8.2.1 control in a name", field("x\x01", "v"), 0},
		{"§8.2.1 DEL in a name", field("x\x7f", "v"), 0},
		{"§8.2.1 octet above 0x7f in a name", field("x\xc3\xa9", "v"), 0},
		{"§8.2.1 colon in a name", field("x:y", "v"), 0},
		{"§8.2.1 CR in a value", field("x", "a\rb"), 0},
		{"§8.2.1 LF in a value", field("x", "a\nb"), 0},
		{"§8.2.1 NUL in a value", field("x", "a\x00b"), 0},
		{"RFC 9110 §5.5 ESC in a value", field("x", "a\x1b[2Jb"), 0},
		{"RFC 9110 §5.5 VT in a value", field("x", "a\vb"), 0},
		{"RFC 9110 §5.5 BEL in a value", field("x", "a\ab"), 0},
		{"RFC 9110 §5.5 DEL in a value", field("x", "a\x7fb"), 0},
		{"§8.2.1 blank before a value", field("x", " v"), 0},
		{"§8.2.1 tab behind a value", field("x", "v\t"), 0},
		{"§8.2.1 a blank as value", field("x", " "), 0},
		{"§8.2.2 connection", field("connection", "close"), 0},
		{"§8.2.2 proxy-connection", field("proxy-connection", "close"), 0},
		{"§8.2.2 keep-alive", field("keep-alive", "timeout=5"), 0},
		{"§8.2.2 transfer-encoding", field("transfer-encoding", "chunked"), 0},
		{"§8.2.2 upgrade", field("upgrade", "h2c"), 0},
		{"§8.3.2 no :status", list(hpack.HeaderField{Name: "x", Value: "v"}), 0},
		{"§8.3.2 an empty field section", nil, 0},
		{"§8.3 two :status", list(status, status), 0},
		{"§8.3 :status behind a field", list(hpack.HeaderField{Name: "x", Value: "v"}, status), 0},
		{"§8.3 unknown pseudo-field", field(":version", "2"), 0},
		{"§8.3 unknown pseudo-field first", list(hpack.HeaderField{Name: ":version", Value: "2"}, status), 0},
		{"§8.3 pseudo-field of a request", field(":path", "/"), 0},
		{"§8.3 a colon for a name", field(":", "v"), 0},
		{"§8.3.2 status 20", statusOf("20"), 0},
		{"§8.3.2 status 2000", statusOf("2000"), 0},
		{"§8.3.2 status abc", statusOf("abc"), 0},
		{"§8.3.2 status 2 0", statusOf("2 0"), 0},
		{"§8.3.2 status +20", statusOf("+20"), 0},
		{"§8.3.2 status 099", statusOf("099"), 0},
		{"§8.3.2 status 000", statusOf("000"), 0},
		{"§8.3.2 an empty status", statusOf(""), 0},
		{"§8.6 status 101", statusOf("101"), 0},
		{"§8.1 END_STREAM on 103", statusOf("103"), wire.EndStream},
		{"RFC 9110 §8.6 two content-lengths", append(field("content-length", "1"),
			hpack.HeaderField{Name: "content-length", Value: "1"}), 0},
		{"RFC 9110 §8.6 a list of lengths", field("content-length", "1, 1"), 0},
		{"RFC 9110 §8.6 a sign", field("content-length", "+1"), 0},
		{"RFC 9110 §8.6 a negative length", field("content-length", "-1"), 0},
		{"RFC 9110 §8.6 a leading blank", field("content-length", " 1"), 0},
		{"RFC 9110 §8.6 hexadecimal", field("content-length", "0x1"), 0},
		{"RFC 9110 §8.6 no length", field("content-length", ""), 0},
		{"RFC 9110 §8.6 2^63", field("content-length", "9223372036854775808"), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				victim := getAsync(conn, "/victim")
				peer.WantHeaders("the request", 1)
				other := getAsync(conn, "/other")
				peer.WantHeaders("another", 3)

				for _, f := range c.fields {
					peer.Encoder().WriteField(f)
				}
				peer.WriteHeaders(1, c.flags)
				peer.WantRSTStream(c.name, 1, wire.ProtocolError)
				wantMalformed(t, victim.wantErr(t, c.name), 1)

				peer.WriteHeaders(3, 0, ":status: 200", "x-remember: me")
				for _, f := range c.fields { // now from the compression table, if the peer indexed them
					peer.Encoder().WriteField(f)
				}
				peer.WriteHeaders(1, wire.EndStream)
				peer.WriteTrailers(3, "x-remember: me")
				resp := other.want(t, "the other stream")
				wantBody(t, "goes on", resp.Body, "")
				if got := resp.Trailer().Get("x-remember"); got != "me" {
					t.Errorf("the compression state is lost: %q", got)
				}
				peer.WantIdle("late HEADERS of the reset stream are ignored")
			})
		})
	}
}

func TestUnusualButLegalResponsesAreTaken(t *testing.T) {
	for _, fields := range [][]string{
		{":status: 999"},
		{":status: 600", "x!#$%&'*+-.^_`|~09: ok"},
		{":status: 200", "x: a b\tc"},
		{":status: 200", "x: \x80\xff"}, // RFC 9110 §5.5: obs-text
		{":status: 200", "x: "},
	} {
		t.Run(strings.Join(fields, " "), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				resp := answerGet(t, peer, conn, 1, fields...)
				if len(resp.Header) != len(fields)-1 {
					t.Errorf("header %v", resp.Header)
				}
				peer.WriteData(1, wire.EndStream, nil)
				wantBody(t, "its end", resp.Body, "")
			})
		})
	}
}

func TestHeaderListBeyondTheLimitEndsOnlyItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{MaxHeaderListSize: 256 << 10})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		fields := []string{":status: 200", "x-remember: me"}
		for i := range 9 {
			fields = append(fields, fmt.Sprintf("x-%d: %s", i, strings.Repeat("x", 30<<10)))
		}
		peer.WriteHeaders(1, 0, fields...)
		peer.WantRSTStream("270 KiB of 256", 1, wire.ProtocolError)
		if err := got.wantErr(t, "too large"); !errors.Is(err, ErrCodeProtocol) {
			t.Errorf("got %v", err)
		}
		resp := answerGet(t, peer, conn, 3, ":status: 200", "x-remember: me")
		if got := resp.Header.Get("x-remember"); got != "me" {
			t.Errorf("the compression state is lost: %q", got)
		}
	})
}

func TestBodyIsDecodedAndRawIsNot(t *testing.T) {
	body := prose(5000)
	eachCoding(t, func(t *testing.T, c testCoding) {
		for _, raw := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: "+c.coding)
				coded := c.encode(body)
				peer.WriteData(1, 0, coded[:len(coded)/2])
				peer.WriteData(1, wire.EndStream, coded[len(coded)/2:])
				if !resp.Uncompressed || resp.Header.Get("content-encoding") != c.coding {
					t.Errorf("Uncompressed %v, header %v", resp.Uncompressed, resp.Header)
				}
				if raw {
					wantBody(t, "as sent", resp.Raw(), string(coded))
				} else {
					wantBody(t, "decoded", resp.Body, string(body))
				}
			})
		}
	})
}

func TestStackedCodingsAreUndoneAndTrailersFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: deflate",
			"content-encoding: identity, X-GZIP")
		peer.WriteData(1, 0, encodeGzip(testCodings[1].encode([]byte("twice"))))
		peer.WriteTrailers(1, "x-sum: 1")
		wantBody(t, "both undone", resp.Body, "twice")
		if got := resp.Trailer().Get("x-sum"); got != "1" {
			t.Errorf("trailer %q", got)
		}
	})
}

// RFC 9110 §14.2: the parts of a 206 are parts of the coded body.
func TestPartialContentIsNotDecoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 206", "content-encoding: gzip")
		peer.WriteData(1, wire.EndStream, []byte("the middle of something"))
		wantBody(t, "as sent", resp.Body, "the middle of something")
		if resp.Uncompressed {
			t.Error("Uncompressed")
		}
	})
}

func TestCutGzipIsAnErrorThoughTheStreamEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: gzip")
		coded := encodeGzip([]byte("whole"))
		peer.WriteData(1, wire.EndStream, coded[:len(coded)-1])
		_, err := io.ReadAll(resp.Body)
		wantDecodeError(t, err, "gzip", io.ErrUnexpectedEOF)
	})
}

func TestResetInsideGzipIsTheStreamsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: gzip")
		peer.WriteData(1, 0, encodeGzip(prose(1000))[:100])
		peer.WriteRSTStream(1, wire.InternalError)
		_, err := io.ReadAll(resp.Body)
		var s *StreamError
		if !errors.As(err, &s) || !s.FromPeer || s.Code != ErrCodeInternal {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnknownCodingIsAnErrorAndRawStillWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: zstd")
		peer.WriteData(1, wire.EndStream, []byte("coded"))
		var unsupported *UnsupportedCodingError
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.As(err, &unsupported) ||
			unsupported.Coding != "zstd" {
			t.Errorf("Body: %v", err)
		}
		wantBody(t, "as sent", resp.Raw(), "coded")
	})
}

func TestConfigDecodersAndLimitsReachTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closes := 0
		peer, conn := dialPeer(t, &Config{Decoders: caesarDecoder("caesar", &closes), MaxDecodedSize: 100})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: caesar")
		peer.WriteData(1, wire.EndStream, encodeCaesar([]byte("veni")))
		wantBody(t, "by the caller's decoder", resp.Body, "veni")
		if closes != 1 {
			t.Errorf("closed %d times", closes)
		}
		resp = answerGet(t, peer, conn, 3, ":status: 200", "content-encoding: gzip")
		peer.WriteData(3, wire.EndStream, encodeGzip(make([]byte, 101)))
		n, err := io.Copy(io.Discard, resp.Body)
		if n != 100 {
			t.Errorf("%d octets, want the 100 that are allowed", n)
		}
		wantLimit(t, err, "size", 100)
		resp = answerGet(t, peer, conn, 5, ":status: 200")
		peer.WriteData(5, wire.EndStream, make([]byte, 101))
		wantBody(t, "no coding, no bound", resp.Body, string(make([]byte, 101)))
	})
}

// Bytes that have arrived are delivered before the error that ended the stream. The error stays the
// same.
func TestArrivedOctetsComeBeforeTheError(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(peer *h2test.Peer)
		want func(err error) bool
	}{
		{"RST_STREAM", func(p *h2test.Peer) { p.WriteRSTStream(1, wire.InternalError) },
			func(err error) bool {
				var s *StreamError
				return errors.As(err, &s) && s.FromPeer && s.StreamID == 1 && s.Code == ErrCodeInternal
			}},
		{"GOAWAY below the stream", func(p *h2test.Peer) { p.WriteGoAway(0, wire.NoError, "") },
			func(err error) bool {
				var s *StreamError
				var ce *ConnError
				// The response had begun, so the request is not retryable.
				return errors.As(err, &s) && s.FromPeer && errors.As(err, &ce) && ce.LastStreamID == 0 &&
					!Retryable(err)
			}},
		{"the connection closed", func(p *h2test.Peer) { p.Close() }, func(err error) bool {
			var ce *ConnError
			return errors.As(err, &ce) && ce.FromPeer && errors.Is(err, io.ErrUnexpectedEOF) &&
				!Retryable(err)
		}},
		{"a broken rule", func(p *h2test.Peer) { p.WriteFrame(wire.FrameHeader{Type: wire.Data}, nil) },
			func(err error) bool {
				var ce *ConnError
				return errors.As(err, &ce) && !ce.FromPeer && errors.Is(err, ErrCodeProtocol)
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				resp := answerGet(t, peer, conn, 1, ":status: 200")
				peer.WriteData(1, 0, []byte("arrived"))
				c.end(peer)
				synctest.Wait()
				read := make([]byte, 100)
				if n, err := resp.Body.Read(read); string(read[:n]) != "arrived" || err != nil {
					t.Fatalf("read %q, %v", read[:n], err)
				}
				_, first := resp.Body.Read(read)
				_, again := resp.Body.Read(read)
				if !c.want(first) || first != again {
					t.Errorf("%v, then %v", first, again)
				}
				resp.Body.Close()
				if _, after := resp.Body.Read(read); after != first {
					t.Errorf("after Close: %v, want %v", after, first)
				}
			})
		})
	}
}

func TestLostTransportErrorIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		pipe.BreakReadAfter(0, syscall.ECONNRESET)
		if err := got.wantErr(t, "reset"); !errors.Is(err, syscall.ECONNRESET) ||
			!errors.Is(conn.Err(), syscall.ECONNRESET) {
			t.Errorf("got %v, Err %v", err, conn.Err())
		}
	})
}

func TestClosingABodyEarlyCancelsAndReturnsItsCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
		peer.Ignore(wire.WindowUpdate)
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, 0, make([]byte, 5000))
		peer.WriteData(1, 0, make([]byte, 5000))
		io.ReadFull(resp.Body, make([]byte, 100))
		for range 2 {
			if err := resp.Body.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		peer.WantRSTStream("it is not read", 1, wire.Cancel)
		wantFullCredit(t, peer, "9,900 octets are dropped")
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, ErrCanceled) ||
			!errors.Is(err, ErrCodeCancel) {
			t.Errorf("Read: %v", err)
		}
		if _, err := resp.Raw().Read(make([]byte, 1)); !errors.Is(err, ErrCanceled) {
			t.Errorf("Raw: %v", err)
		}
		peer.WriteData(1, wire.EndStream, make([]byte, 5000))
		wantFullCredit(t, peer, "late DATA")
		peer.WantIdle("and nothing else")
	})
}

func TestClosingAWholeBodyReturnsItsCreditSilently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{WindowManager: giveBack})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, wire.EndStream, make([]byte, 5000))
		synctest.Wait()
		resp.Raw().Close()
		peer.WantWindowUpdate("of the connection", 0, 5000)
		peer.WantIdle("and no RST_STREAM: the exchange was over")
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, ErrCanceled) {
			t.Errorf("Read: %v", err)
		}
	})
}

func TestCloseDoesNotWaitForABlockedPeerOrReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn, pipe := newPeer(t, nil)
		peer.Handshake()
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: gzip")
		pipe.SetWriteBuffer(0)
		read := make(chan error)
		go func() {
			_, err := resp.Body.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		resp.Body.Close() // otherwise the bubble deadlocks
		if err := <-read; !errors.Is(err, ErrCanceled) {
			t.Errorf("the Read that was blocked: %v", err)
		}
	})
}

func TestResponseMayBeAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, _ := conn.Open(t.Context(), &Request{})
		peer.WantHeaders("the request", 1)
		hurry, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("no time"))
		if _, err := s.Response(hurry); !errors.Is(err, context.Canceled) ||
			!strings.Contains(err.Error(), "no time") {
			t.Errorf("got %v", err)
		}
		peer.WriteHeaders(1, 0, ":status: 200")
		first, err := s.Response(t.Context())
		again, errAgain := s.Response(t.Context())
		if first == nil || first != again || err != nil || errAgain != nil {
			t.Errorf("got %p, %v, then %p, %v", first, err, again, errAgain)
		}
		peer.WantIdle("the first context ended the waiting only")
	})
}

func TestBodySurvivesOctetByOctetReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: gzip")
		body := prose(3000)
		peer.WriteData(1, wire.EndStream, encodeGzip(body))
		var got bytes.Buffer
		one := make([]byte, 1)
		for {
			n, err := resp.Body.Read(one)
			got.Write(one[:n])
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got.Bytes(), body) {
			t.Error("the body differs")
		}
	})
}
