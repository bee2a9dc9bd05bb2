// Package servercases tests HTTP/2 servers: a table of what a client may and must not send, and how
// a server must respond. The cases follow the server half of h2spec, by the sections of RFC 9113
// and RFC 7541. They use hyper's public API only, with Conn.WriteFrame and Wire.OnFrame.
package servercases

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
)

// caseTimeout is how long a case waits for the server.
const caseTimeout = 5 * time.Second

// A Case is what a client sends and what the server must do then.
type Case struct {
	Name   string // begins with the section of RFC 9113, or of RFC 7541 for those of HPACK
	Frames func(c *Client) []hyper.Frame
	Want   Want
}

// A Want is what the server must do.
type Want struct {
	kind  wantKind
	codes []hyper.ErrCode
}

// A wantKind is the kind of what the server must do.
type wantKind uint8

const (
	connError   wantKind = iota // GOAWAY with one of the codes, or the end of the connection
	streamError                 // as connError, or RST_STREAM with one of the codes on stream 1
	malformed                   // as streamError, or a response of status 400 or above (RFC 9113 §8.1.1)
	response                    // a response on stream 1 of status 200
	pong                        // the PING that follows is acknowledged
	ack                         // SETTINGS are acknowledged
	oneByte                     // DATA of one byte on stream 1
)

// String describes w.
func (w Want) String() string {
	return []string{"an error of the connection", "an error of stream 1",
		"an error of stream 1 or a status of 400", "a response", "the acknowledgment of a PING",
		"the acknowledgment of SETTINGS", "one byte of DATA"}[w.kind] + fmt.Sprint(" ", w.codes)
}

// A Client is a connection to the server under test. It collects what the server sends.
type Client struct {
	conn   *hyper.Conn
	server *Server
	frames chan received
	seen   []string
	fields *hpack.Decoder
}

// A received is a frame of the server, with the status of a response.
type received struct {
	hyper.Frame
	status string
}

// A Server is the server under test.
type Server struct {
	Addr string // for Dial, and the :authority of requests
	Path string // of a resource with some content; it responds to GET with 200

	// Dial connects to Addr. cfg has only Wire set.
	Dial func(ctx context.Context, cfg *hyper.Config) (*hyper.Conn, error)

	// Deviates says, by the name of a case, what the server does instead.
	Deviates map[string]string
}

// errCannotBeSent is the result of a case that the server's settings make impossible.
var errCannotBeSent = errors.New("the server allows frames of every size")

// Run runs all cases, several at the same time. A case in which the server is known to deviate is
// skipped if it does, with what it did.
func (s *Server) Run(t *testing.T) {
	known := map[string]bool{}
	for _, c := range Cases {
		known[c.Name] = true
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			err := c.run(t, s)
			switch why := s.Deviates[c.Name]; {
			case err == errCannotBeSent:
				t.Skip(err)
			case why == "" && err != nil:
				t.Error(err)
			case err != nil:
				t.Skipf("%s: %v", why, err)
			}
		})
	}
	for name := range s.Deviates {
		if !known[name] {
			t.Errorf("there is no case %q", name)
		}
	}
}

// run runs one case.
func (c *Case) run(t *testing.T, s *Server) error {
	ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
	defer cancel()
	client := &Client{server: s, frames: make(chan received, 1000),
		fields: hpack.NewDecoder(4096, nil)}
	conn, err := s.Dial(ctx, &hyper.Config{Wire: &hyper.Wire{OnFrame: client.collect}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client.conn = conn
	if _, err := conn.WaitSettings(ctx); err != nil {
		t.Fatal(err)
	}
	frames := c.Frames(client)
	for _, f := range frames {
		if len(f.Payload) >= 1<<24 {
			return errCannotBeSent
		}
	}
	if c.Want.kind == pong {
		frames = append(frames, hyper.PingFrame(0, [8]byte{'p', 'o', 'n', 'g'}))
	}
	if err := conn.WriteFrame(ctx, frames...); err != nil {
		return err
	}
	return client.judge(ctx, c.Want)
}

// collect keeps a frame of the server.
func (c *Client) collect(_ *hyper.Conn, f hyper.Frame) {
	r := received{Frame: f}
	r.Payload = slices.Clone(f.Payload)
	if f.Type == hyper.FrameHeaders { // servers send short ones here, in one frame and without padding
		fields, _ := c.fields.DecodeFull(f.Payload)
		if len(fields) > 0 && fields[0].Name == ":status" {
			r.status = fields[0].Value
		}
	}
	select {
	case c.frames <- r:
	default: // more than any case needs
	}
}

// judge waits until the server has done what w says.
func (c *Client) judge(ctx context.Context, w Want) error {
	for {
		select {
		case f := <-c.frames:
			c.seen = append(c.seen, f.String()+" "+f.status)
			if done, err := c.judgeFrame(f, w); done {
				return err
			}
		case <-c.conn.Done():
			for len(c.frames) > 0 { // what came before the end
				if done, err := c.judgeFrame(<-c.frames, w); done {
					return err
				}
			}
			if w.kind <= malformed {
				return nil
			}
			return fmt.Errorf("want %v, the connection ended: %w; frames: %q", w, c.conn.Err(), c.seen)
		case <-ctx.Done():
			return fmt.Errorf("want %v, nothing came; frames: %q", w, c.seen)
		}
	}
}

// judgeFrame reports whether f decides the case, and how.
func (c *Client) judgeFrame(f received, w Want) (done bool, err error) {
	code, isError := f.ErrCode()
	onStream := f.StreamID == 1
	switch {
	case isError && w.kind <= malformed:
		// NO_ERROR ends what is complete (RFC 9113 §6.8, §8.1). The error may follow.
		if code == hyper.ErrCodeNo || f.Type == hyper.FrameRSTStream && (w.kind == connError || !onStream) {
			return false, nil
		}
		if !slices.Contains(w.codes, code) {
			return true, fmt.Errorf("want %v, got %v", w, f)
		}
		return true, nil
	case isError && code != hyper.ErrCodeNo:
		return true, fmt.Errorf("want %v, got %v", w, f)
	case w.kind == pong && f.Type == hyper.FramePing:
		return f.Flags&hyper.FlagAck != 0 && string(f.Payload[:4]) == "pong", nil
	case w.kind == ack && f.Type == hyper.FrameSettings:
		return f.Flags&hyper.FlagAck != 0, nil
	case w.kind == oneByte && f.Type == hyper.FrameData && onStream:
		if len(f.Payload) != 1 {
			return true, fmt.Errorf("want %v, got %v", w, f)
		}
		return true, nil
	case f.Type == hyper.FrameHeaders && onStream && (w.kind == malformed || w.kind == response):
		if ok := f.status == "200"; ok != (w.kind == response) || w.kind == malformed && f.status < "400" {
			return true, fmt.Errorf("want %v, got status %s", w, f.status)
		}
		return true, nil
	}
	return false, nil
}
