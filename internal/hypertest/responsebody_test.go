// This file tests malformed responses, and how bodies are decoded and closed.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

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
		{"§8.3 unknown pseudo-field first", list(hpack.HeaderField{Name: ":version", Value: "2"}, status),
			0},
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
				wantMalformedError(t, victim.WantErr(t, c.name), 1)

				peer.WriteHeaders(3, 0, ":status: 200", "x-remember: me")
				for _, f := range c.fields { // now from the compression table, if the peer indexed them
					peer.Encoder().WriteField(f)
				}
				peer.WriteHeaders(1, wire.EndStream)
				peer.WriteTrailers(3, "x-remember: me")
				resp := other.Want(t, "the other stream")
				h2test.WantBody(t, "goes on", resp.Body, "")
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
				h2test.WantBody(t, "its end", resp.Body, "")
			})
		})
	}
}

func TestHeaderListBeyondTheLimitEndsOnlyItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{MaxHeaderListSize: 256 << 10})
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		fields := []string{":status: 200", "x-remember: me"}
		for i := range 9 {
			fields = append(fields, fmt.Sprintf("x-%d: %s", i, strings.Repeat("x", 30<<10)))
		}
		peer.WriteHeaders(1, 0, fields...)
		peer.WantRSTStream("270 KiB of 256", 1, wire.ProtocolError)
		if err := got.WantErr(t, "too large"); !errors.Is(err, hyper.ErrCodeProtocol) {
			t.Errorf("got %v", err)
		}
		resp := answerGet(t, peer, conn, 3, ":status: 200", "x-remember: me")
		if got := resp.Header.Get("x-remember"); got != "me" {
			t.Errorf("the compression state is lost: %q", got)
		}
	})
}

func TestBodyIsDecodedAndRawIsNot(t *testing.T) {
	body := h2test.Prose(5000)
	h2test.EachCoding(t, func(t *testing.T, c h2test.Coding) {
		for _, raw := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: "+c.Coding)
				coded := c.Encode(body)
				peer.WriteData(1, 0, coded[:len(coded)/2])
				peer.WriteData(1, wire.EndStream, coded[len(coded)/2:])
				if !resp.Uncompressed || resp.Header.Get("content-encoding") != c.Coding {
					t.Errorf("Uncompressed %v, header %v", resp.Uncompressed, resp.Header)
				}
				if raw {
					h2test.WantBody(t, "as sent", resp.Raw(), string(coded))
				} else {
					h2test.WantBody(t, "decoded", resp.Body, string(body))
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
		peer.WriteData(1, 0, h2test.Gzip(h2test.Codings[1].Encode([]byte("twice"))))
		peer.WriteTrailers(1, "x-sum: 1")
		h2test.WantBody(t, "both undone", resp.Body, "twice")
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
		h2test.WantBody(t, "as sent", resp.Body, "the middle of something")
		if resp.Uncompressed {
			t.Error("Uncompressed")
		}
	})
}

func TestCutGzipIsAnErrorThoughTheStreamEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: gzip")
		coded := h2test.Gzip([]byte("whole"))
		peer.WriteData(1, wire.EndStream, coded[:len(coded)-1])
		_, err := io.ReadAll(resp.Body)
		wantDecodeError(t, err, "gzip", io.ErrUnexpectedEOF)
	})
}

func TestResetInsideGzipIsTheStreamsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: gzip")
		peer.WriteData(1, 0, h2test.Gzip(h2test.Prose(1000))[:100])
		peer.WriteRSTStream(1, wire.InternalError)
		_, err := io.ReadAll(resp.Body)
		var s *hyper.StreamError
		if !errors.As(err, &s) || !s.FromPeer || s.Code != hyper.ErrCodeInternal {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnknownCodingIsAnErrorAndRawStillWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: zstd")
		peer.WriteData(1, wire.EndStream, []byte("coded"))
		var unsupported *hyper.UnsupportedCodingError
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.As(err, &unsupported) ||
			unsupported.Coding != "zstd" {
			t.Errorf("Body: %v", err)
		}
		h2test.WantBody(t, "as sent", resp.Raw(), "coded")
	})
}

func TestConfigDecodersAndLimitsReachTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closes := 0
		decoders := map[string]hyper.Decoder{"caesar": h2test.Caesar(&closes)}
		peer, conn := dialPeer(t, &hyper.Config{Decoders: decoders, MaxDecodedSize: 100})
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: caesar")
		peer.WriteData(1, wire.EndStream, h2test.EncodeCaesar([]byte("veni")))
		h2test.WantBody(t, "by the caller's decoder", resp.Body, "veni")
		if closes != 1 {
			t.Errorf("closed %d times", closes)
		}
		resp = answerGet(t, peer, conn, 3, ":status: 200", "content-encoding: gzip")
		peer.WriteData(3, wire.EndStream, h2test.Gzip(make([]byte, 101)))
		n, err := io.Copy(io.Discard, resp.Body)
		if n != 100 {
			t.Errorf("%d octets, want the 100 that are allowed", n)
		}
		wantLimit(t, err, "size", 100)
		resp = answerGet(t, peer, conn, 5, ":status: 200")
		peer.WriteData(5, wire.EndStream, make([]byte, 101))
		h2test.WantBody(t, "no coding, no bound", resp.Body, string(make([]byte, 101)))
	})
}

// Bytes that have arrived are delivered before the error that ended the stream. The error stays the
// same.
func TestArrivedBytesComeBeforeTheError(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(peer *h2test.Peer)
		want func(err error) bool
	}{
		{"RST_STREAM", func(p *h2test.Peer) { p.WriteRSTStream(1, wire.InternalError) },
			func(err error) bool {
				var s *hyper.StreamError
				return errors.As(err, &s) && s.FromPeer && s.StreamID == 1 && s.Code == hyper.ErrCodeInternal
			}},
		{"GOAWAY below the stream", func(p *h2test.Peer) { p.WriteGoAway(0, wire.NoError, "") },
			func(err error) bool {
				var s *hyper.StreamError
				var ce *hyper.ConnError
				// The response had begun, so the request is not retryable.
				return errors.As(err, &s) && s.FromPeer && errors.As(err, &ce) && ce.LastStreamID == 0 &&
					!hyper.Retryable(err)
			}},
		{"the connection closed", func(p *h2test.Peer) { p.Close() }, func(err error) bool {
			var ce *hyper.ConnError
			return errors.As(err, &ce) && ce.FromPeer && errors.Is(err, io.ErrUnexpectedEOF) &&
				!hyper.Retryable(err)
		}},
		{"a broken rule", func(p *h2test.Peer) { p.WriteFrame(wire.FrameHeader{Type: wire.Data}, nil) },
			func(err error) bool {
				var ce *hyper.ConnError
				return errors.As(err, &ce) && !ce.FromPeer && errors.Is(err, hyper.ErrCodeProtocol)
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
		if err := got.WantErr(t, "reset"); !errors.Is(err, syscall.ECONNRESET) ||
			!errors.Is(conn.Err(), syscall.ECONNRESET) {
			t.Errorf("got %v, Err %v", err, conn.Err())
		}
	})
}

func TestClosingABodyEarlyCancelsAndReturnsItsCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
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
		h2test.WantFullCredit(t, peer, "9,900 octets are dropped")
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, hyper.ErrCanceled) ||
			!errors.Is(err, hyper.ErrCodeCancel) {
			t.Errorf("Read: %v", err)
		}
		if _, err := resp.Raw().Read(make([]byte, 1)); !errors.Is(err, hyper.ErrCanceled) {
			t.Errorf("Raw: %v", err)
		}
		peer.WriteData(1, wire.EndStream, make([]byte, 5000))
		h2test.WantFullCredit(t, peer, "late DATA")
		peer.WantIdle("and nothing else")
	})
}

func TestClosingAWholeBodyReturnsItsCreditSilently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
		resp := answerGet(t, peer, conn, 1, ":status: 200")
		peer.WriteData(1, wire.EndStream, make([]byte, 5000))
		synctest.Wait()
		resp.Raw().Close()
		peer.WantWindowUpdate("of the connection", 0, 5000)
		peer.WantIdle("and no RST_STREAM: the exchange was over")
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, hyper.ErrCanceled) {
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
		if err := <-read; !errors.Is(err, hyper.ErrCanceled) {
			t.Errorf("the Read that was blocked: %v", err)
		}
	})
}

func TestResponseMayBeAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, _ := conn.Open(t.Context(), &hyper.Request{})
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

func TestBodySurvivesByteByByteReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		resp := answerGet(t, peer, conn, 1, ":status: 200", "content-encoding: gzip")
		body := h2test.Prose(3000)
		peer.WriteData(1, wire.EndStream, h2test.Gzip(body))
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

// The end of the body is the end of the response. What ends the upload after that takes no trailers
// away.
func TestTrailersOfABodyThatWasReadStay(t *testing.T) {
	for name, end := range map[string]func(conn *hyper.Conn, peer *h2test.Peer, s *hyper.Stream){
		"Close": func(conn *hyper.Conn, _ *h2test.Peer, _ *hyper.Stream) { conn.Close() },
		"Reset": func(_ *hyper.Conn, _ *h2test.Peer, s *hyper.Stream) { s.Reset(hyper.ErrCodeCancel) },
		"RST_STREAM": func(_ *hyper.Conn, peer *h2test.Peer, s *hyper.Stream) {
			peer.WriteRSTStream(1, wire.NoError)
			<-s.Done()
		},
	} {
		for _, promises := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/promises: %v", name, promises), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := &hyper.Config{}
					if promises {
						cfg.Push = &hyper.PushPolicy{}
					}
					peer, conn := dialPeer(t, cfg)
					peer.Ignore(wire.RSTStream, wire.GoAway)
					s, err := conn.Open(t.Context(), &hyper.Request{Method: "POST"})
					if err != nil {
						t.Fatal(err)
					}
					peer.WantHeaders("the request", 1)
					if promises {
						h2test.Promise(peer, 2, "/pushed")
					}
					peer.WriteHeaders(1, 0, ":status: 200")
					peer.WriteData(1, 0, []byte("body"))
					peer.WriteTrailers(1, "x-sum: 1")
					resp, err := s.Response(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					h2test.WantBody(t, "the whole response", resp.Body, "body")
					end(conn, peer, s)
					if got := resp.Trailer().Get("x-sum"); got != "1" {
						t.Errorf("the trailers are %v", resp.Trailer())
					}
				})
			})
		}
	}
}
