package hyper

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// An ErrCode is the reason that RST_STREAM and GOAWAY carry (RFC 9113 §7). It is an error, so that
//
//	errors.Is(err, hyper.RefusedStream)
//
// asks whether a stream or a connection ended with that code, whoever sent it.
type ErrCode uint32

// The codes of RFC 9113 §7.
const (
	NoError            = ErrCode(wire.NoError)
	ProtocolError      = ErrCode(wire.ProtocolError)
	InternalError      = ErrCode(wire.InternalError)
	FlowControlError   = ErrCode(wire.FlowControlError)
	SettingsTimeout    = ErrCode(wire.SettingsTimeout)
	StreamClosed       = ErrCode(wire.StreamClosed)
	FrameSizeError     = ErrCode(wire.FrameSizeError)
	RefusedStream      = ErrCode(wire.RefusedStream)
	Cancel             = ErrCode(wire.Cancel)
	CompressionError   = ErrCode(wire.CompressionError)
	ConnectError       = ErrCode(wire.ConnectError)
	EnhanceYourCalm    = ErrCode(wire.EnhanceYourCalm)
	InadequateSecurity = ErrCode(wire.InadequateSecurity)
	HTTP11Required     = ErrCode(wire.HTTP11Required)
)

// String returns the code's name in RFC 9113 §7, such as "REFUSED_STREAM".
func (c ErrCode) String() string { return wire.ErrCode(c).String() }

func (c ErrCode) Error() string { return c.String() }

var (
	// ErrClosed is what every call on a connection and its streams returns, wrapped or plain, after
	// Close, and what new requests get after Shutdown.
	ErrClosed = errors.New("hyper: connection closed")

	// ErrCanceled is returned by calls on a stream that the caller ended itself: by Reset, by closing
	// its body, or by cancelling a push.
	ErrCanceled = errors.New("hyper: stream canceled by the caller")

	// ErrSendEnded is what Write returns after CloseWrite or SendTrailers, and on a stream whose request has a Body.
	ErrSendEnded = errors.New("hyper: the sending side of the stream has ended")

	// ErrDrained is returned, inside a ConnError, for new requests on a connection that cannot take
	// any more: the peer sent GOAWAY, the stream identifiers are used up, or the peer did not
	// answer the PING that shows which streams it still counts (then it is ErrPingTimeout, too).
	// Such requests are Retryable on another one.
	ErrDrained = errors.New("hyper: connection takes no more requests")

	// ErrPingTimeout: the peer did not answer a PING in time (Config.PingTimeout). Its text contains
	// net/http's for that, as does that of ErrWriteStalled.
	ErrPingTimeout = errors.New("hyper: peer does not answer PING (" + lostText + ")")

	// ErrWriteStalled: the peer accepted nothing for Config.WriteStallTimeout.
	ErrWriteStalled = errors.New("hyper: peer does not read (" + lostText + ")")

	// ErrWindowStalled: a reader waited for Config.WindowStallTimeout at a receive window that its manager did not
	// open. It comes inside a StreamError, or a ConnError where it is the connection's window, which says how it stood.
	ErrWindowStalled = errors.New("hyper: window manager grants nothing")

	// ErrHandshakeTimeout: a connection was not ready within Config.HandshakeTimeout. Dialling, a
	// proxy's answer to CONNECT and TLS have that time together, and then the peer's SETTINGS have
	// it. It comes inside an error that names the phase.
	ErrHandshakeTimeout = errors.New("hyper: handshake timeout")
)

// prefix begins the text of every error of this package, once: an error inside another one loses
// it. Errors that are not hyper's own, such as a context's, stay as they are, and the reset of a
// stream reads as net/http's after RoundTrip.
const prefix = "hyper: "

// bare returns the text of err for use inside another error's.
func bare(err error) string { return strings.TrimPrefix(err.Error(), prefix) }

// withoutPrefix returns err for use inside an error of another package, which begins with a prefix
// of its own.
func withoutPrefix(err error) error {
	if bare(err) == err.Error() {
		return err
	}
	return bareError{err}
}

// A bareError is an error of hyper's without the prefix.
type bareError struct{ error }

func (e bareError) Error() string { return bare(e.error) }
func (e bareError) Unwrap() error { return e.error }

// Timeout is what net.OpError looks for.
func (e bareError) Timeout() bool {
	var ne net.Error
	return errors.As(e.error, &ne) && ne.Timeout()
}

// A causedError is one error and what is behind it: the end of a context and its cause, for
// instance.
type causedError struct{ err, cause error }

func (e causedError) Error() string   { return e.err.Error() + ": " + bare(e.cause) }
func (e causedError) Unwrap() []error { return []error{e.err, e.cause} }

// notProcessed is false: the cause of a context's end is often the error of another request, as
// with errgroup.
func (e causedError) notProcessed() bool { return false }

// A StreamError is the end of one stream; its connection lives on.
type StreamError struct {
	StreamID uint32
	Code     ErrCode // sent or received in RST_STREAM
	FromPeer bool    // the peer ended the stream
	Err      error   // why, where more is known than the code; may be nil

	unprocessed bool // the peer has provably not acted on the request
	began       bool // something of a response had come: the peer has acted on it, whatever it says now
	netHTTP     bool // it reads as the one of net/http
}

// Error names the stream, who ended it, and why: "hyper: stream 5: peer reset: REFUSED_STREAM".
//
// From RoundTrip, and from the body of its response, it reads as the one of net/http, as some programs
// tell resets apart by that text: "stream error: stream ID 5; REFUSED_STREAM; received from peer".
func (e *StreamError) Error() string {
	if e.netHTTP {
		text := fmt.Sprintf("stream error: stream ID %d; %s", e.StreamID, codeText(e.Code))
		if cause := e.cause(); cause != nil {
			text += "; " + bare(cause)
		}
		if e.graceful() {
			text += " (" + gracefulText + ")"
		}
		return text
	}
	var b strings.Builder
	fmt.Fprintf(&b, prefix+"stream %d: ", e.StreamID)
	switch {
	case e.Err != nil && e.FromPeer && e.unprocessed:
		fmt.Fprintf(&b, "not processed: %s", bare(e.Err))
		if e.graceful() {
			b.WriteString(" (" + gracefulText + ")")
		}
	case e.Err != nil:
		fmt.Fprintf(&b, "%v: %s", e.Code, bare(e.Err))
	case e.FromPeer:
		fmt.Fprintf(&b, "peer reset: %v", e.Code)
	default:
		fmt.Fprintf(&b, "reset: %v", e.Code)
	}
	return b.String()
}

// Unwrap returns the code and the reason, for errors.Is and errors.As.
func (e *StreamError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// asInNetHTTP returns a copy of e that reads as the StreamError of net/http.
func (e *StreamError) asInNetHTTP() *StreamError {
	if e.netHTTP {
		return e
	}
	told := *e
	told.netHTTP = true
	return &told
}

// notProcessed reports whether the peer has provably not acted on the request.
func (e *StreamError) notProcessed() bool {
	return !e.began && (e.unprocessed || e.FromPeer && e.Code == RefusedStream)
}

// A ConnError is the end of a connection. Every call that was waiting on it returns it, and every later call.
//
// Once the peer has sent GOAWAY, its fields are those of that GOAWAY however the connection is
// lost, and Err is how: a network error, or a timeout. Where this side ends it, because the peer
// broke a rule after that, Code is what we sent, FromPeer is false, LastStreamID and Debug are the
// peer's all the same, and Err has the peer's GOAWAY in it as a ConnError. Of several GOAWAYs of
// the peer it has the last stream of the latest, the latest code that is not NO_ERROR, and all
// debug data, joined by "; " up to 4 KiB.
type ConnError struct {
	Code         ErrCode  // of the GOAWAY, sent or received; NoError where the connection was lost without one
	FromPeer     bool     // the peer ended the connection
	LastStreamID uint32   // of a GOAWAY from the peer: streams above it were not processed
	Debug        []byte   // opaque octets of the peer's GOAWAY
	Addr         net.Addr // of the peer; nil where the connection has none
	Err          error    // why, where more is known than the code: a network error, a broken rule; may be nil

	authority   string // of the connection: it names the host
	goAway      bool   // a GOAWAY said so, in either direction
	unprocessed bool   // the request that got this error was never sent
	early       bool   // the peer's SETTINGS had not come
	answers     bool   // the peer's GOAWAY came after ours, and has no error
	netHTTP     bool   // its text has net/http's words, too
}

// Error names the host and the peer's address, and says who ended the connection, and why:
//
//	hyper: connection to example.com (192.0.2.1:443): peer sent GOAWAY (last stream 3): ENHANCE_YOUR_CALM "too much"
//
// Where the peer closes the connection after GOAWAY, and where it does not answer PING, the text
// contains that of net/http: "http2: server sent GOAWAY and closed the connection; LastStreamID=…",
// or "http2: client connection lost".
//
// From RoundTrip, and from the body of its response, the text of a lost connection ends with the
// words "(use of closed network connection)". Programs that compare net/http's error with
// io.ErrUnexpectedEOF, such as Kubernetes' client-go, look for them too.
func (e *ConnError) Error() string {
	text := prefix + "connection" + e.to() + ": " + e.reason()
	if e.netHTTP && e.FromPeer && !e.goAway && errors.Is(e.Err, io.ErrUnexpectedEOF) {
		text += " (use of closed network connection)"
	}
	return text
}

// asInNetHTTP returns a copy of e that has the words by which programs know net/http's.
func (e *ConnError) asInNetHTTP() *ConnError {
	told := *e
	told.netHTTP = true
	return &told
}

// to names the peer, "" where nothing is known of it.
func (e *ConnError) to() string {
	if name := peerName(e.authority, e.Addr); name != "" {
		return " to " + name
	}
	return ""
}

// peerName names a peer by its host and its address, as far as they are known and differ.
func peerName(host string, at net.Addr) string {
	addr := ""
	if at != nil {
		addr = at.String()
	}
	switch {
	case host == "" || host == addr:
		return addr
	case addr == "":
		return host
	}
	return host + " (" + addr + ")"
}

// reason is the text behind the peer's name.
func (e *ConnError) reason() string {
	var b strings.Builder
	switch {
	case e.closedAfterGoAway():
		return e.closedReason()
	case e.goAway && e.FromPeer:
		fmt.Fprintf(&b, "peer sent GOAWAY (last stream %d): %v", e.LastStreamID, e.Code)
		if len(e.Debug) > 0 {
			fmt.Fprintf(&b, " %.256q", e.Debug)
		}
		if e.Err != nil {
			b.WriteString(": " + bare(e.Err))
		}
	case e.goAway && e.Err != nil:
		fmt.Fprintf(&b, "%v: %s", e.Code, bare(e.Err))
	case e.Err != nil && e.early:
		b.WriteString("waiting for the peer's SETTINGS: " + bare(e.Err))
	case e.Err != nil:
		b.WriteString(bare(e.Err))
	default:
		b.WriteString(e.Code.String())
	}
	return b.String()
}

func (e *ConnError) notProcessed() bool { return e.unprocessed }

// Unwrap returns Err. The code of a GOAWAY is found by Is and As.
func (e *ConnError) Unwrap() error { return e.Err }

// Timeout reports whether the connection ended because the peer was silent. It makes ConnError a net.Error.
func (e *ConnError) Timeout() bool {
	var ne net.Error
	return errors.Is(e.Err, ErrPingTimeout) || errors.Is(e.Err, ErrWriteStalled) || errors.Is(e.Err, ErrHandshakeTimeout) ||
		e.Code == SettingsTimeout || errors.As(e.Err, &ne) && ne.Timeout()
}

// Temporary is false: it exists for net.Error.
func (e *ConnError) Temporary() bool { return false }

// A RequestError is a mistake in a request that was found before anything was sent: nothing reached
// the peer, and the connection is as it was. It is not Retryable: the request would fail again.
type RequestError struct {
	Field  string // the header field, pseudo-header field or struct field at fault
	Reason string // it quotes the value, up to 64 octets of it, where that is not a field that may hold a secret
}

// Error names the field, its value and what is wrong with it: `hyper: request: :path "foo bar" has
// a blank`.
func (e *RequestError) Error() string {
	field := e.Field
	if !syntax.IsToken(strings.TrimPrefix(field, ":")) {
		field = quoted(field)
	}
	return prefix + "request: " + field + " " + e.Reason
}

func (e *RequestError) notProcessed() bool { return false }

// quoted shows a value that a caller or a peer made up: in ASCII, on one line, and not at any
// length.
func quoted(s string) string {
	if len(s) > 64 {
		return strconv.QuoteToASCII(s[:64]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// A BodyLengthError is a request body that did not have the length declared for it. The stream was reset
// with CANCEL where the body was too short; a body that is too long is refused before the octet too many.
type BodyLengthError struct {
	Declared int64
	Got      int64 // octets read from the body; Declared+1 or more where it is too long
}

func (e *BodyLengthError) Error() string {
	if e.Got > e.Declared {
		return fmt.Sprintf("hyper: request body is longer than its content-length %d", e.Declared)
	}
	return fmt.Sprintf("hyper: request body ended after %d octets of its content-length %d", e.Got, e.Declared)
}

// A MalformedError is a response (or a push) that breaks RFC 9113 §8. It comes inside a StreamError with
// ProtocolError.
type MalformedError struct {
	Reason string
}

func (e *MalformedError) Error() string { return prefix + "malformed message: " + e.Reason }

// A NotHTTP2Error is returned by Dial and NewConn when TLS did not negotiate HTTP/2. Conn is the
// live connection, handshake done, for the caller to use with another protocol or to close: it is
// the caller's now. It is Retryable, over that protocol.
type NotHTTP2Error struct {
	Negotiated string // by ALPN; empty when the server chose nothing, which means HTTP/1.1
	Conn       net.Conn

	host string // that TLS was asked for
}

func (e *NotHTTP2Error) Error() string {
	server := "server"
	if e.Conn != nil {
		server = or(peerName(e.host, e.Conn.RemoteAddr()), server)
	}
	if e.Negotiated == "" {
		return prefix + server + " did not negotiate HTTP/2 (no ALPN protocol; it speaks HTTP/1.1)"
	}
	return fmt.Sprintf(prefix+"%s negotiated %q, not HTTP/2", server, e.Negotiated)
}

func (e *NotHTTP2Error) notProcessed() bool { return true }

// Retryable reports whether the peer has provably not processed the request that ended with err, so
// that sending it again, on this or another connection, cannot do its work twice (RFC 9113 §8.7).
// It is true where
//
//   - the peer refused the stream, or its GOAWAY says that it did not look at it, and nothing of a response had come:
//     no interim or final response, and no promise of a push;
//   - the request was never sent: it waited on a connection that ended, or came to one that takes no more requests;
//   - there was no connection to send it on: dialling failed, or the proxy refused, or TLS failed or did not negotiate HTTP/2,
//     or any of that took longer than Config.HandshakeTimeout.
//
// It is false for a mistake of the caller's (*RequestError), for the end of the caller's context,
// and for a connection that the caller has closed (ErrClosed). It looks into errors that wrap
// others, such as a *url.Error, and takes the outermost that is hyper's; a *net.OpError of "dial"
// or "proxyconnect", which Transport returns as net/http does, counts as one.
func Retryable(err error) bool {
	is, _ := notProcessed(err)
	return is
}

// notProcessed finds the outermost error in err that knows whether the request was processed, and
// asks it. An error further in may be about another request: that of a tunnel to a proxy below the
// connection.
func notProcessed(err error) (is, known bool) {
	switch e := err.(type) {
	case nil:
		return false, false
	case interface{ notProcessed() bool }:
		return e.notProcessed(), true
	case *net.OpError:
		if e.Op == "dial" || e.Op == "proxyconnect" {
			return true, true
		}
	case tls.RecordHeaderError: // of a handshake; after one it comes inside a ConnError
		return true, true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return notProcessed(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if is, known := notProcessed(inner); known {
				return is, known
			}
		}
	}
	return false, false
}

// streamErr makes the error of a stream that this side ends.
func streamErr(id uint32, code ErrCode, reason error) *StreamError {
	return &StreamError{StreamID: id, Code: code, Err: reason}
}

// connErr makes the error of a connection that this side ends with a GOAWAY.
func connErr(code ErrCode, format string, args ...any) *ConnError {
	return &ConnError{Code: code, Err: fmt.Errorf(format, args...), goAway: true}
}

// An afterGoAway is why we ended a connection whose peer had sent GOAWAY.
type afterGoAway struct {
	err    error
	goAway *ConnError
}

func (e *afterGoAway) Error() string   { return bare(e.err) + "; before that, " + e.goAway.reason() }
func (e *afterGoAway) Unwrap() []error { return []error{e.err, e.goAway} }

// because returns a copy of the peer's GOAWAY that says what came of it.
func (e *ConnError) because(err error) *ConnError {
	told := *e
	told.Err = err
	return &told
}

// lostErr makes the error of a connection that was lost to a network error.
func lostErr(err error) *ConnError {
	if errors.Is(err, io.EOF) || err == io.ErrUnexpectedEOF {
		err = errPeerClosed
	}
	return &ConnError{FromPeer: true, Err: err}
}

var errPeerClosed = fmt.Errorf("peer closed the connection: %w", io.ErrUnexpectedEOF)

// asConnError turns whatever ended the connection into a ConnError.
func asConnError(err error) *ConnError {
	var we *wire.Error
	var ce *ConnError
	switch {
	case errors.As(err, &ce):
		return ce
	case errors.As(err, &we):
		return &ConnError{Code: ErrCode(we.Code), Err: errors.New(we.Reason), goAway: true}
	}
	return lostErr(err)
}
