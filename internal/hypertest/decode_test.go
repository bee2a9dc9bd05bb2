package hypertest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// encode returns text as a complete body. The codings are applied in the given order.
func encode(text string, codings ...string) []byte {
	body := []byte(text)
	for _, coding := range codings {
		body = h2test.CodingOf(coding).Encode(body)
	}
	return body
}

// coded sends GET through v and responds with a header that has the Content-Encoding coding. It
// returns the peer and the response.
func coded(t *testing.T, v *visit, coding string) (*accepted, *http.Response) {
	t.Helper()
	call := v.get("/")
	peer := v.accept()
	peer.WantHeaders("the request", 1)
	if v.name == "Open" {
		peer.WantData("the end of the request", 1, wire.EndStream, 0)
	}
	peer.WriteHeaders(1, 0, ":status: 200", "content-encoding: "+coding)
	resp := call.Want(t, "the response")
	t.Cleanup(func() { resp.Body.Close() })
	return peer, resp
}

// wantNow requires that text can be read from body before another frame arrives.
func wantNow(t *testing.T, reason string, body io.Reader, text string) {
	t.Helper()
	read := h2test.Go(func() (string, error) {
		p := make([]byte, len(text))
		_, err := io.ReadFull(body, p)
		return string(p), err
	})
	read.WantReturned(t, reason)
	if got := read.Want(t, reason); got != text {
		t.Fatalf("%s: got %q, want %q", reason, got, text)
	}
}

// Each gzip member is returned before the next one arrives. Kubernetes 1.37 sends each event of a
// watch as its own gzip member.
func TestGzipMemberIsReadBeforeTheNextOne(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		peer, resp := coded(t, v, "gzip")
		for _, event := range []string{"added\n", "modified\n", strings.Repeat("deleted ", 1000) + "\n"} {
			peer.WriteData(1, 0, encode(event, "gzip"))
			wantNow(t, "an event in a member of its own", resp.Body, event)
		}
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "the end", resp.Body, "")
	})
}

// The last bytes of the content are returned before END_STREAM and before the checksum that follows
// them.
func TestEndOfACodedBodyIsReadBeforeTheStreamEnds(t *testing.T) {
	for _, codings := range [][]string{{"gzip"}, {"deflate"}, {"br"}, {"deflate", "gzip"}, {"gzip", "br"},
		{"br", "deflate"}} {
		list := strings.Join(codings, ", ")
		for name, held := range map[string]int{"whole": 0, "checksum to come": 4} {
			// br has no checksum, and of two codings the checksum is inside of the outer one.
			if held > 0 && codings[0] == "br" || held > 0 && len(codings) > 1 {
				continue
			}
			t.Run(list+"/"+name, func(t *testing.T) {
				eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
					peer, resp := coded(t, v, list)
					body := encode("the last words", codings...)
					peer.WriteData(1, 0, body[:len(body)-held])
					wantNow(t, "all of the content", resp.Body, "the last words")
					peer.WriteData(1, wire.EndStream, body[len(body)-held:])
					h2test.WantBody(t, "the end", resp.Body, "")
				})
			})
		}
	}
}

func TestFlushedBytesAreReadAtOnceInEveryStack(t *testing.T) {
	for _, codings := range [][]string{{"gzip"}, {"deflate"}, {"br"}, {"deflate", "gzip"}, {"gzip", "br"},
		{"br", "deflate"}} {
		list := strings.Join(codings, ", ")
		t.Run(list, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				peer, resp := coded(t, v, list)
				var b bytes.Buffer
				w := io.Writer(&b)
				var stack []h2test.FlushWriter // in the order in which the caller writes to them
				for i := range codings {
					coding := h2test.CodingOf(codings[len(codings)-1-i])
					stack = append([]h2test.FlushWriter{coding.Writer(w)}, stack...)
					w = stack[0]
				}
				for _, event := range []string{"one", "two", "three"} {
					io.WriteString(w, event)
					for _, f := range stack {
						f.Flush()
					}
					peer.WriteData(1, 0, b.Bytes())
					b.Reset()
					wantNow(t, "what was flushed", resp.Body, event)
				}
				for _, f := range stack {
					f.Close()
				}
				peer.WriteData(1, wire.EndStream, b.Bytes())
				h2test.WantBody(t, "the end", resp.Body, "")
			})
		})
	}
}

// If the coding does not end correctly, the content that was returned early is followed by an
// error.
func TestWhatFollowsAMemberIsStillChecked(t *testing.T) {
	whole := encode("event", "gzip")
	wrong := bytes.Clone(whole)
	wrong[len(wrong)-8] ^= 1
	for name, test := range map[string]struct {
		coding string
		body   []byte
		cause  error
	}{
		"gzip checksum cut":     {"gzip", whole[:len(whole)-1], io.ErrUnexpectedEOF},
		"gzip checksum missing": {"gzip", whole[:len(whole)-8], io.ErrUnexpectedEOF},
		"gzip checksum wrong":   {"gzip", wrong, gzip.ErrChecksum},
		"second member cut":     {"gzip", append(bytes.Clone(whole), whole[:5]...), io.ErrUnexpectedEOF},
		"no second member":      {"gzip", append(bytes.Clone(whole), "no gzip there"...), gzip.ErrHeader},
		"zlib checksum cut": {"deflate", encode("event", "deflate")[:len(encode("event", "deflate"))-2],
			io.ErrUnexpectedEOF},
		"octets after zlib": {"deflate", append(encode("event", "deflate"), 0), nil},
		"octets after br":   {"br", append(encode("event", "br"), 0), nil},
	} {
		t.Run(name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				peer, resp := coded(t, v, test.coding)
				peer.WriteData(1, 0, test.body)
				wantNow(t, "the event", resp.Body, "event")
				peer.WriteData(1, wire.EndStream, nil)
				var decode *hyper.DecodeError
				for range 2 {
					n, err := resp.Body.Read(make([]byte, 10))
					if n != 0 || !errors.As(err, &decode) || test.cause != nil &&
						!errors.Is(err, test.cause) {
						t.Fatalf("then Read = %d, %v, want a DecodeError: %v", n, err, test.cause)
					}
				}
			})
		})
	}
}

// If the stream is reset after an event, the body returns the error of the reset and not io.EOF.
func TestResetAfterAMemberIsNoEnd(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		peer, resp := coded(t, v, "gzip")
		peer.WriteData(1, 0, encode("event", "gzip"))
		wantNow(t, "the event", resp.Body, "event")
		peer.WriteRSTStream(1, wire.InternalError)
		if _, err := resp.Body.Read(make([]byte, 10)); !errors.Is(err, hyper.ErrCodeInternal) {
			t.Errorf("then %v, want INTERNAL_ERROR", err)
		}
	})
}

// A Decoder may return its last bytes together with io.EOF. They are not held back either.
func TestDecodersLastBytesAreReadBeforeTheStreamEnds(t *testing.T) {
	cfg := hyper.Config{Decoders: map[string]hyper.Decoder{
		"four": func(r io.Reader) (io.Reader, error) { return &fourOctets{r}, nil },
	}}
	eachDoor(t, cfg, func(t *testing.T, v *visit) {
		peer, resp := coded(t, v, "four")
		peer.WriteData(1, 0, []byte("body"))
		wantNow(t, "with io.EOF", resp.Body, "body")
		peer.WriteData(1, wire.EndStream, nil)
		h2test.WantBody(t, "the end", resp.Body, "")
	})
}

// fourOctets decodes a coding whose content is four bytes long.
type fourOctets struct{ r io.Reader }

// Read returns the four bytes together with io.EOF.
func (f *fourOctets) Read(p []byte) (int, error) {
	n, err := io.ReadFull(f.r, p[:4])
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// A peer can repeat a long Content-Encoding for one byte each. The client does not decode such a
// list: reading the body returns an error, and the encoded body is still available.
func TestContentEncodingOfTooManyElementsIsAnErrorOfTheBody(t *testing.T) {
	for name, value := range map[string]string{
		"empty":    strings.Repeat(",", 60),
		"identity": strings.Repeat("identity,", 6),
		"blank":    strings.Repeat(", ", 30) + ",",
	} {
		t.Run(name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				var peer *accepted
				for i, raw := range []bool{false, true} {
					var raws io.ReadCloser
					req := v.request("GET", "/", nil)
					req = req.WithContext(hyper.WithResponse(req.Context(),
						func(r *hyper.Response) { raws = r.Raw() }))
					call := v.send(req)
					if i == 0 {
						peer = v.accept()
					}
					id := 2*uint32(i) + 1
					peer.WantHeaders("the request", id)
					if v.name == "Open" {
						peer.WantData("the end of the request", id, wire.EndStream, 0)
					}
					fields := []string{":status: 200"}
					for range 64 {
						fields = append(fields, "content-encoding: "+value)
					}
					peer.WriteHeaders(id, 0, fields...)
					peer.WriteData(id, wire.EndStream, []byte("as sent"))
					resp := call.Want(t, "the response")
					synctest.Wait() // so that closing the body does not reset the stream
					if raw {
						h2test.WantBody(t, "as it was sent", raws, "as sent")
						continue
					}
					var limit *hyper.DecodeLimitError
					if _, err := resp.Body.Read(make([]byte, 1)); !errors.As(err, &limit) ||
						limit.Limit != "elements" || limit.Max != 32 {
						t.Errorf("error %v, want a DecodeLimitError of 32 elements", err)
					}
					resp.Body.Close()
				}
			})
		})
	}
}

func TestCodingTwiceIsAnErrorOfTheBody(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		peer, resp := coded(t, v, "br, br, br, br, br")
		peer.WriteData(1, wire.EndStream, []byte("twenty-one octets, br"))
		var limit *hyper.DecodeLimitError
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.As(err, &limit) || limit.Limit != "repeats" ||
			limit.Coding != "br" {
			t.Errorf("error %v, want a DecodeLimitError of br twice", err)
		}
	})
}
