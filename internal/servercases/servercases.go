// Package servercases tests HTTP/2 servers: a table of what a client may and must not send, and how
// a server must respond. The cases are those of the server half of h2spec, and some more, by the
// sections of RFC 9113 and RFC 7541; H2Spec says which is which. They use hyper's public API only,
// with Conn.WriteFrame and Wire.OnFrame.
package servercases

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
)

// caseTimeout is how long a case waits for the server.
const caseTimeout = 5 * time.Second

// The payloads of PING.
var (
	lastPing = [8]byte{'l', 'a', 's', 't', 'p', 'i', 'n', 'g'} // after the frames of a case
	ackPing  = [8]byte{'a', 'c', 'k', 'p', 'i', 'n', 'g'}      // with ACK
)

// casePing is the payload of a PING among the frames of a case.
const casePing = "pingpong"

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
	streamError                 // as connError, or RST_STREAM with one of the codes on the stream
	malformed                   // as streamError, or a response of status 400 or above (RFC 9113 §8.1.1)
	goAway                      // GOAWAY with one of the codes
	response                    // a response on the stream of status 200
	anyResponse                 // a response on the stream that is no complaint about the request
	ended                       // the server has ended the stream
	pong                        // the PING that follows is acknowledged
	pongOrEnd                   // as pong, or the end of the connection
	echo                        // the PING of the case is acknowledged
	ack                         // SETTINGS are acknowledged
	anyData                     // DATA on the stream
	oneByte                     // DATA of one byte on the stream
	settings                    // the first frame is SETTINGS
)

// isError reports whether the server must end the stream or the connection with an error.
func (k wantKind) isError() bool { return k <= goAway }

// String describes w.
func (w Want) String() string {
	return []string{"an error of the connection", "an error of the stream",
		"an error of the stream or a status of 400", "GOAWAY", "a response", "a response of any status",
		"the end of the stream", "the acknowledgment of a PING", "the acknowledgment of a PING or the end",
		"the acknowledgment of the PING of the case", "the acknowledgment of SETTINGS", "DATA",
		"one byte of DATA", "SETTINGS as the first frame"}[w.kind] + fmt.Sprint(" ", w.codes)
}

// A Client is a connection to the server under test. It collects what the server sends.
type Client struct {
	ctx    context.Context // of the case
	conn   *hyper.Conn
	server *Server
	stream uint32 // that the case is about; 1 if the case does not set it
	frames chan received
	seen   []string
	fields *hpack.Decoder
	first  *hyper.Frame // of the server
	err    error        // of what the case has done before its last frames
}

// A received is a frame of the server, with the status of a response.
type received struct {
	hyper.Frame
	status string
}

// A Server is the server under test.
type Server struct {
	Addr string // to dial, and the :authority of requests
	Path string // of a resource with five bytes of content or more; it responds to GET with 200
	TLS  *tls.Config

	// Deviates says, by the name of a case, what the server does instead.
	Deviates map[string]string
}

// errNoLimit is the result of a case that needs a limit which the server's SETTINGS do not have.
var errNoLimit = errors.New("the server has no such limit")

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
			case err == errNoLimit:
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
	client := &Client{ctx: ctx, server: s, stream: 1, frames: make(chan received, 1000),
		fields: hpack.NewDecoder(4096, nil)}
	conn, err := hyper.Dial(ctx, s.Addr, &hyper.Config{TLS: s.TLS.Clone(),
		Wire: &hyper.Wire{OnFrame: client.collect}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client.conn = conn
	client.await(Want{kind: ack}) // of the first SETTINGS of hyper
	if _, err := conn.WaitSettings(ctx); err != nil || client.err != nil {
		t.Fatal(err, client.err)
	}
	frames := c.Frames(client)
	if c.Want.kind == pong || c.Want.kind == pongOrEnd {
		frames = append(frames, hyper.PingFrame(0, lastPing))
	}
	client.await(c.Want, frames...)
	return client.err
}

// await sends frames, and waits until the server has done what w says. After an error of the case
// it does nothing.
func (c *Client) await(w Want, frames ...hyper.Frame) {
	for _, f := range frames {
		if len(f.Payload) >= 1<<24 {
			c.err = errNoLimit
		}
	}
	if c.err == nil && len(frames) > 0 {
		c.err = c.conn.WriteFrame(c.ctx, frames...)
	}
	if c.err == nil {
		c.err = c.judge(w)
	}
}

// awaitEnd opens another connection, sends p instead of the client preface, and requires that the
// server closes the connection.
func (c *Client) awaitEnd(p string) {
	cfg := c.server.TLS.Clone()
	cfg.NextProtos = []string{"h2"}
	nc, err := (&tls.Dialer{Config: cfg}).DialContext(c.ctx, "tcp", c.server.Addr)
	if err != nil {
		c.err = err
		return
	}
	defer nc.Close()
	deadline, _ := c.ctx.Deadline()
	nc.SetDeadline(deadline)
	if _, err = io.WriteString(nc, p); err == nil {
		_, err = io.Copy(io.Discard, nc)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.err = errors.New("want the end of the connection, it is still open")
	}
}

// collect keeps a frame of the server.
func (c *Client) collect(_ *hyper.Conn, f hyper.Frame) {
	r := received{Frame: f}
	r.Payload = slices.Clone(f.Payload)
	if c.first == nil {
		c.first = &r.Frame
	}
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
func (c *Client) judge(w Want) error {
	if w.kind == settings {
		if c.first.Type != hyper.FrameSettings || c.first.Flags&hyper.FlagAck != 0 {
			return fmt.Errorf("want %v, got %v", w, c.first)
		}
		return nil
	}
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
			if w.kind.isError() && w.kind != goAway || w.kind == pongOrEnd {
				return nil
			}
			return fmt.Errorf("want %v, the connection ended: %w; frames: %q", w, c.conn.Err(), c.seen)
		case <-c.ctx.Done():
			return fmt.Errorf("want %v, nothing came; frames: %q", w, c.seen)
		}
	}
}

// judgeFrame reports whether f decides the case, and how.
func (c *Client) judgeFrame(f received, w Want) (done bool, err error) {
	code, isError := f.ErrCode()
	onStream := f.StreamID == c.stream
	wrong := fmt.Errorf("want %v, got %v %s", w, f, f.status)
	switch {
	case isError && w.kind.isError():
		// NO_ERROR ends what is complete (RFC 9113 §6.8, §8.1). The error may follow.
		isStream := f.Type == hyper.FrameRSTStream
		if code == hyper.ErrCodeNo || isStream && (w.kind == connError || w.kind == goAway || !onStream) {
			return false, nil
		}
		if !slices.Contains(w.codes, code) {
			return true, wrong
		}
		return true, nil
	case isError && code != hyper.ErrCodeNo:
		return true, wrong
	case f.Type == hyper.FramePing && f.Flags&hyper.FlagAck != 0:
		return c.judgePing(string(f.Payload), w)
	case w.kind == ack && f.Type == hyper.FrameSettings:
		return f.Flags&hyper.FlagAck != 0, nil
	case !onStream:
		return false, nil
	case w.kind == ended:
		return isError || f.Flags&hyper.FlagEndStream != 0 &&
			(f.Type == hyper.FrameData || f.Type == hyper.FrameHeaders), nil
	case w.kind == oneByte && f.Type == hyper.FrameData && len(f.Payload) != 1:
		return true, wrong
	case f.Type == hyper.FrameData:
		return w.kind == oneByte || w.kind == anyData, nil
	case f.Type != hyper.FrameHeaders:
		return false, nil
	case w.kind == malformed && f.status < "400", w.kind == response && f.status != "200",
		w.kind == anyResponse && (f.status == "400" || f.status >= "500"):
		return true, wrong
	}
	return w.kind == malformed || w.kind == response || w.kind == anyResponse, nil
}

// judgePing is judgeFrame for the acknowledgment of a PING.
func (c *Client) judgePing(payload string, w Want) (done bool, err error) {
	switch payload {
	case string(lastPing[:]):
		return w.kind == pong || w.kind == pongOrEnd, nil
	case casePing:
		return w.kind == echo, nil
	case string(ackPing[:]):
		return true, errors.New("the server has responded to a PING with ACK")
	}
	return false, nil // of a PING that hyper has sent
}
