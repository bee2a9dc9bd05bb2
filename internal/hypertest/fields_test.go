package hypertest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// isFieldValueOctet reports whether RFC 9110 §5.5 allows c in a field value: visible ASCII, spaces,
// horizontal tabs and obs-text (0x80 to 0xff).
func isFieldValueOctet(c int) bool { return c == '\t' || c >= ' ' && c != 0x7f }

// valueOctets returns the bytes that the tests put into the middle of a value: all except printable
// ASCII.
func valueOctets() (octets []int) {
	for c := range 256 {
		if c < ' ' || c >= 0x7f {
			octets = append(octets, c)
		}
	}
	return octets
}

// wantMalformed requires a MalformedError within a StreamError with PROTOCOL_ERROR.
func wantMalformed(t *testing.T, reason string, err error) {
	t.Helper()
	var s *hyper.StreamError
	var m *hyper.MalformedError
	if !errors.As(err, &s) || s.Code != hyper.ErrCodeProtocol || s.FromPeer || !errors.As(err, &m) {
		t.Fatalf("%s: got %v, want a MalformedError in a StreamError with PROTOCOL_ERROR", reason, err)
	}
}

// wantGet takes the frames of a GET, including its END_STREAM.
func (v *visit) wantGet(peer *accepted, id uint32) {
	v.t.Helper()
	peer.WantHeaders("the request", id)
	if v.name == "Open" {
		peer.WantData("the end of the request", id, wire.EndStream, 0)
	}
}

func TestControlCharactersInAResponseAreMalformed(t *testing.T) {
	sections := map[string]func(peer *accepted, id uint32, value string){
		"interim": func(peer *accepted, id uint32, value string) {
			peer.WriteHeaders(id, 0, ":status: 103", "x: "+value)
		},
		"final": func(peer *accepted, id uint32, value string) {
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "x: "+value)
		},
		"trailers": func(peer *accepted, id uint32, value string) {
			peer.WriteHeaders(id, 0, ":status: 200")
			peer.WriteTrailers(id, "x: "+value)
		},
	}
	for section, write := range sections {
		t.Run(section, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				var peer *accepted
				id := uint32(1)
				for _, c := range valueOctets() {
					call := v.get("/")
					if peer == nil {
						peer = v.accept()
						peer.Ignore(wire.WindowUpdate)
					}
					v.wantGet(peer, id)
					value := "a" + string([]byte{byte(c)}) + "b"
					write(peer, id, value)
					reason := fmt.Sprintf("octet 0x%02x", c)
					if !isFieldValueOctet(c) {
						peer.WantRSTStream(reason, id, wire.ProtocolError)
						_, err := call.Wait()
						if err == nil { // trailers: the response was returned before they arrived
							_, err = io.ReadAll(call.Value.Body)
							call.Value.Body.Close()
						}
						wantMalformed(t, reason, err)
					} else {
						if section == "interim" {
							peer.WriteHeaders(id, wire.EndStream, ":status: 200")
						}
						resp := call.Want(t, reason)
						h2test.WantBody(t, reason, resp.Body, "")
						resp.Body.Close()
						got := resp.Header.Get("X") + resp.Trailer.Get("X")
						if section != "interim" && got != value {
							t.Errorf("%s came as %q", reason, got)
						}
					}
					id += 2
				}
			})
		})
	}
}

func TestControlCharactersInAPromiseAreMalformed(t *testing.T) {
	eachDoor(t, hyper.Config{Authority: "example.com", Push: &hyper.PushPolicy{Max: 1000}},
		func(t *testing.T, v *visit) {
			call := v.get("/")
			peer := v.accept()
			v.wantGet(peer, 1)
			scheme := ":scheme: https"
			if v.cleartext {
				scheme = ":scheme: http"
			}
			promised := uint32(2)
			for _, c := range valueOctets() {
				value := "a" + string([]byte{byte(c)}) + "b"
				peer.WritePushPromise(1, promised, ":method: GET", scheme, ":authority: example.com",
					":path: /",
					"x: "+value)
				reason := fmt.Sprintf("octet 0x%02x", c)
				if !isFieldValueOctet(c) {
					peer.WantRSTStream(reason, promised, wire.ProtocolError)
				}
				promised += 2
			}
			peer.WantIdle("the others are promises")
			peer.WriteHeaders(1, 0, ":status: 200")
			call.Want(t, "the response").Body.Close()
		})
}

func TestControlCharactersAreNotSent(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		var peer *accepted
		id := uint32(1)
		for _, c := range valueOctets() {
			value := "a" + string([]byte{byte(c)}) + "b"
			reason := fmt.Sprintf("octet 0x%02x", c)
			req := v.request("GET", "/", nil)
			req.Header.Set("X", value)
			call := v.send(req)
			if !isFieldValueOctet(c) {
				var r *hyper.RequestError
				// http.Transport checks the request before hyper does.
				if err := call.WantErr(t, reason); !errors.As(err, &r) && !v.viaNetHTTP() {
					t.Fatalf("%s: %v", reason, err)
				}
				continue
			}
			if peer == nil {
				peer = v.accept()
			}
			peer.WantHeaders(reason, id, "x: "+value)
			if v.name == "Open" {
				peer.WantData("the end of the request", id, wire.EndStream, 0)
			}
			peer.WriteHeaders(id, wire.EndStream, ":status: 200")
			call.Want(t, reason).Body.Close()
			id += 2
		}
	})
}

// hostile maps text that could control a terminal or mislead a reader to the escaped form that must
// be shown instead.
var hostile = map[string]string{
	"\x1b[2J":       `\x1b[2J`,
	"\u0080":        `\u0080`,
	"\u009b31m":     `\u009b31m`, // CSI
	"\u009f":        `\u009f`,
	"\u061c":        `\u061c`,
	"\u200e\u200f":  `\u200e\u200f`,
	"\u202a\u202e":  `\u202a\u202e`,
	"\u2066\u2069":  `\u2066\u2069`,
	"\u2028":        `\u2028`,
	"\x9b":          `\x9b`, // a C1 control as a single byte, which is not UTF-8
	"\xff\xfe":      `\xff\xfe`,
	"\x7f":          `\x7f`,
	"\n":            `\n`,
	"grün 漢 \ufffd": "grün 漢 \ufffd",
}

func TestTraceShowsNothingThatATerminalObeys(t *testing.T) {
	for raw, shown := range hostile {
		t.Run(shown, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log h2test.Buffer
				var lines []string
				write := hyper.TraceTo(&log)
				peer, conn := dialPeer(t, &hyper.Config{Trace: func(e hyper.TraceEvent) {
					write(e)
					for line := range e.FieldLines {
						lines = append(lines, line)
					}
				}})
				getAsync(conn, "/")
				peer.WantHeaders("the request", 1)
				log.Take()
				lines = nil
				peer.WriteHeaders(1, 0, ":status: 200", "x: a"+raw+"b", "x"+raw+": c")
				text := log.Take()
				for _, want := range []string{"x: a" + shown + "b", "x" + shown + ": c"} {
					if !strings.Contains(text, "       "+want+"\n") {
						t.Errorf("TraceTo wrote %q, without %q", text, want)
					}
				}
				if len(lines) != 3 || lines[1] != "x: a"+shown+"b" || lines[2] != "x"+shown+": c" {
					t.Errorf("FieldLines: %q", lines)
				}
			})
		})
	}
}

func TestTraceLineIsCutBetweenCharacters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log h2test.Buffer
		peer, conn := dialPeer(t, &hyper.Config{Trace: hyper.TraceTo(&log)})
		getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		log.Take()
		peer.WriteHeaders(1, 0, ":status: 200", "x: "+strings.Repeat("ü", 100))
		if text, want := log.Take(), "       x: "+strings.Repeat("ü", 30)+"…\n"; !strings.Contains(text,
			want) {
			t.Errorf("got %q, want %q", text, want)
		}
	})
}

func TestErrorsShowNothingThatATerminalObeys(t *testing.T) {
	ends := map[string]func(p *h2test.Peer, raw string){
		"a field name": func(p *h2test.Peer,
			raw string) {
			p.WriteHeaders(1, 0, ":status: 200", "x"+raw+": y")
		},
		"a pseudo-header field": func(p *h2test.Peer,
			raw string) {
			p.WriteHeaders(1, 0, ":status: 200", ":x"+raw+": y")
		},
		"the debug data": func(p *h2test.Peer,
			raw string) {
			p.WriteGoAway(0, wire.InternalError, "x"+raw)
		},
		"the coding": func(p *h2test.Peer,
			raw string) {
			p.WriteHeaders(1, 0, ":status: 200", "content-encoding: x"+raw)
		},
		"a name in the trailers": func(p *h2test.Peer, raw string) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteTrailers(1, "x"+raw+": y")
		},
		"a pseudo-trailer": func(p *h2test.Peer, raw string) {
			p.WriteHeaders(1, 0, ":status: 200")
			p.WriteTrailers(1, ":x"+raw+": y")
		},
		"the status": func(p *h2test.Peer, raw string) { p.WriteHeaders(1, 0, ":status: "+raw) },
		"the length of a message": func(p *h2test.Peer,
			raw string) {
			p.WriteHeaders(1, 0, ":status: 200", "content-length: "+raw)
		},
	}
	for end, write := range ends {
		for raw := range hostile {
			if strings.HasPrefix(raw, "grün") {
				continue
			}
			t.Run(fmt.Sprintf("%s %q", end, raw), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := dialPeer(t, nil)
					call := getAsync(conn, "/")
					peer.WantHeaders("the request", 1)
					write(peer, raw)
					if end == "the coding" {
						peer.WriteData(1, wire.EndStream, []byte("x"))
					}
					_, err := call.Wait()
					if err == nil {
						_, err = io.ReadAll(call.Value.Body)
					}
					if err == nil {
						t.Fatal("want an error")
					}
					if strings.Contains(err.Error(), raw) {
						t.Errorf("%q", err)
					}
				})
			})
		}
	}
}

func TestWindowManagerErrorShowsNothingThatATerminalObeys(t *testing.T) {
	err := &hyper.WindowManagerError{StreamID: 1, Event: hyper.WindowData, Panic: "a\x1b[2J\u202e\xffb"}
	if want := `a\x1b[2J\u202e\xffb`; !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want it to have %q", err, want)
	}
}
