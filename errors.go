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

// An ErrCode is the reason in RST_STREAM and GOAWAY (RFC 9113 §7). It is an error, so that
//
//	errors.Is(err, hyper.ErrCodeRefusedStream)
//
// reports whether a stream or a connection ended with that code, whichever side sent it.
type ErrCode uint32

// The codes of RFC 9113 §7.
const (
	ErrCodeNo                 ErrCode = 0x0 // no error: a graceful end
	ErrCodeProtocol           ErrCode = 0x1 // the other side broke a rule that has no code of its own
	ErrCodeInternal           ErrCode = 0x2 // the sender has an error of its own
	ErrCodeFlowControl        ErrCode = 0x3 // the other side sent more than a window allows
	ErrCodeSettingsTimeout    ErrCode = 0x4 // SETTINGS were not acknowledged in time
	ErrCodeStreamClosed       ErrCode = 0x5 // a frame came for a stream that was half-closed
	ErrCodeFrameSize          ErrCode = 0x6 // a frame has an invalid size
	ErrCodeRefusedStream      ErrCode = 0x7 // nothing of the request was processed
	ErrCodeCancel             ErrCode = 0x8 // the stream is not needed any more
	ErrCodeCompression        ErrCode = 0x9 // the compression state cannot be kept
	ErrCodeConnect            ErrCode = 0xa // the connection of a CONNECT request was reset or failed
	ErrCodeEnhanceYourCalm    ErrCode = 0xb // the other side causes too much load
	ErrCodeInadequateSecurity ErrCode = 0xc // TLS does not meet the requirements of RFC 9113 §9.2
	ErrCodeHTTP11Required     ErrCode = 0xd // the request must be sent over HTTP/1.1
)

// String returns the code's name in RFC 9113 §7, such as "REFUSED_STREAM".
func (c ErrCode) String() string { return wire.ErrCode(c).String() }

// Error returns the code's name.
func (c ErrCode) Error() string { return c.String() }

var (
	// ErrClosed is returned, directly or wrapped, by every call on a connection and its streams
	// after Close, and for new requests after Shutdown.
	ErrClosed = errors.New("hyper: connection closed")

	// ErrCanceled is returned by calls on a stream that the caller ended itself: by Reset, by
	// closing its body, or by canceling a push.
	ErrCanceled = errors.New("hyper: stream canceled by the caller")

	// ErrSendEnded is returned by Write after CloseWrite or SendTrailers, and on a stream whose
	// request has a Body.
	ErrSendEnded = errors.New("hyper: the sending side of the stream has ended")

	// ErrDrained is returned, inside a ConnError, for new requests on a connection that accepts no
	// more requests: the peer sent GOAWAY, the stream identifiers are used up, or the peer did not
	// acknowledge the PING that shows which streams it still counts. In the last case the error is
	// ErrPingTimeout as well. Such requests are Retryable on another connection.
	ErrDrained = errors.New("hyper: connection accepts no more requests")

	// ErrPingTimeout means that the peer did not acknowledge a PING in time (Config.PingTimeout).
	// Its text contains net/http's text for this failure, as does the text of ErrWriteStalled.
	ErrPingTimeout = errors.New("hyper: peer did not acknowledge a PING (" + lostText + ")")

	// ErrWriteStalled means that the peer accepted no bytes for Config.WriteStallTimeout.
	ErrWriteStalled = errors.New("hyper: peer accepts no bytes (" + lostText + ")")

	// ErrWindowBlocked means that a reader waited for Config.WindowBlockedTimeout at a receive
	// window that its manager did not open. It comes inside a StreamError, or inside a ConnError if
	// the window is the connection's. The text of that error describes the window.
	ErrWindowBlocked = errors.New("hyper: window manager grants nothing")

	// ErrHandshakeTimeout means that a connection was not ready within Config.HandshakeTimeout. The
	// timeout applies to dialing, a proxy's response to CONNECT and the TLS handshake together, and
	// then again to the wait for the peer's SETTINGS. ErrHandshakeTimeout comes inside an error
	// that names the phase.
	ErrHandshakeTimeout = errors.New("hyper: handshake timeout")
)

// prefix is the beginning of the text of every error of this package. It appears once: an error
// inside another error loses it. Errors that are not hyper's own, such as a context's, keep their
// text. After RoundTrip, the reset of a stream has the text of net/http's error instead.
const prefix = "hyper: "

// bare returns the text of err without the prefix, for use inside the text of another error.
func bare(err error) string { return strings.TrimPrefix(err.Error(), prefix) }

// withoutPrefix returns err for use inside an error of another package, which has a prefix of its
// own.
func withoutPrefix(err error) error {
	if bare(err) == err.Error() {
		return err
	}
	return bareError{err}
}

// A bareError is an error of hyper without the prefix.
type bareError struct{ error }

// Error returns the text without the prefix.
func (e bareError) Error() string { return bare(e.error) }

// Unwrap returns the error with the prefix.
func (e bareError) Unwrap() error { return e.error }

// Timeout reports whether the error is a timeout. net.OpError looks for this method.
func (e bareError) Timeout() bool { return isTimeout(e.error) }

// isTimeout reports whether err is, or wraps, a timeout.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// A causedError is an error together with its cause: for instance the end of a context and the
// context's cause.
type causedError struct{ err, cause error }

// Error returns the text of the error and that of its cause.
func (e causedError) Error() string { return e.err.Error() + ": " + bare(e.cause) }

// Unwrap returns the error and its cause.
func (e causedError) Unwrap() []error { return []error{e.err, e.cause} }

// notProcessed returns false: the cause of a context's end is often the error of another request,
// for instance with errgroup.
func (e causedError) notProcessed() bool { return false }

// A StreamError is the end of one stream. The connection remains usable.
type StreamError struct {
	StreamID uint32
	Code     ErrCode // in the RST_STREAM that was sent or received
	FromPeer bool    // the peer ended the stream
	Err      error   // the reason, if more is known than the code; may be nil

	processed processed // what is known of the peer's work on the request
	netHTTP   bool      // Error returns net/http's text
}

// A processed is what an error says of the peer's work on its request.
type processed uint8

const (
	maybeProcessed  processed = iota
	neverProcessed            // provably: for instance, nothing of the request was sent
	surelyProcessed           // a part of a response arrived
)

// Error names the stream, the side that ended it, and the reason: "hyper: stream 5: peer reset:
// REFUSED_STREAM".
//
// An error of RoundTrip, or of the body of its response, has the text of net/http's error instead,
// because some programs distinguish resets by that text: "stream error: stream ID 5;
// REFUSED_STREAM; received from peer".
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
	case e.Err != nil && e.FromPeer && e.processed == neverProcessed:
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

// asInNetHTTP returns a copy of e that has the text of net/http's StreamError.
func (e *StreamError) asInNetHTTP() *StreamError {
	if e.netHTTP {
		return e
	}
	told := *e
	told.netHTTP = true
	return &told
}

// notProcessed reports whether the peer has provably not processed the request.
func (e *StreamError) notProcessed() bool {
	return e.processed == neverProcessed ||
		e.processed == maybeProcessed && e.FromPeer && e.Code == ErrCodeRefusedStream
}

// A ConnError is the end of a connection. Every call that waits on the connection returns it, and
// so does every later call.
//
// After the peer has sent GOAWAY, the fields are those of that GOAWAY, however the connection is
// lost. Err then says how it was lost: by a network error or a timeout.
//
// If this side ends the connection after the peer's GOAWAY, because the peer broke a rule, Code is
// the code that this side sent and FromPeer is false. LastStreamID and Debug are still the peer's,
// and Err contains the peer's GOAWAY as a ConnError.
//
// If the peer sent several GOAWAYs, LastStreamID is that of the latest, Code is the latest code
// that is not NO_ERROR, and Debug has all debug data, joined by "; " up to 4 KiB.
type ConnError struct {
	Code         ErrCode  // of the GOAWAY, sent or received; ErrCodeNo if there was none
	FromPeer     bool     // the peer ended the connection
	LastStreamID uint32   // of a GOAWAY from the peer: streams above it were not processed
	Debug        []byte   // opaque debug data of the peer's GOAWAY
	Addr         net.Addr // of the peer; nil if the connection has none
	// Err is the reason, if more is known than the code: a network error or a broken rule. It may
	// be nil.
	Err error
	// LastFrames are the last frames of the connection before its end, the oldest first, in the
	// form of Conn.Dump. It is nil without Config.KeepFrames.
	LastFrames []string

	authority string    // of the connection; it names the host
	how       connEnd   // how the connection ended
	processed processed // neverProcessed: the request that got this error was never sent
	netHTTP   bool      // the text also has net/http's words
}

// A connEnd is how a connection ended.
type connEnd uint8

const (
	connLost        connEnd = iota // without a GOAWAY
	connLostEarly                  // connLost before the peer's SETTINGS arrived
	connGoAway                     // with ConnError.Code in a GOAWAY, sent or received
	connGoAwayReply                // connGoAway of the peer, after ours and without an error
)

// isGoAway reports whether Code was in a GOAWAY, sent or received.
func (e *ConnError) isGoAway() bool { return e.how >= connGoAway }

// Error names the host and the peer's address, the side that ended the connection, and the reason.
// For a GOAWAY of the peer, the reason includes its debug data:
//
//	hyper: connection to a.test (192.0.2.1:443): peer sent GOAWAY (last stream 3): NO_ERROR "bye"
//
// If the peer closes the connection after GOAWAY, or does not acknowledge a PING, the text contains
// that of net/http: "http2: server sent GOAWAY and closed the connection; LastStreamID=…", or
// "http2: client connection lost".
//
// With Config.KeepFrames, the text ends with the last eight frames in brackets.
//
// For an error of RoundTrip, or of the body of its response, the text of a lost connection ends
// with the words "(use of closed network connection)". Some programs, such as Kubernetes'
// client-go, compare net/http's error with io.ErrUnexpectedEOF and also look for these words.
func (e *ConnError) Error() string {
	text := prefix + "connection" + e.to() + ": " + e.reason()
	if e.netHTTP && e.FromPeer && !e.isGoAway() && errors.Is(e.Err, io.ErrUnexpectedEOF) {
		text += " (use of closed network connection)"
	}
	if n := len(e.LastFrames); n > 0 {
		text += " [last frames: " + strings.Join(e.LastFrames[max(0, n-shownFrames):], ", ") + "]"
	}
	return text
}

// shownFrames is how many of ConnError.LastFrames are a part of the text.
const shownFrames = 8

// asInNetHTTP returns a copy of e whose text has the words by which programs recognize net/http's
// error.
func (e *ConnError) asInNetHTTP() *ConnError {
	told := *e
	told.netHTTP = true
	return &told
}

// to returns " to " and the peer's name, or "" if neither its host nor its address is known.
func (e *ConnError) to() string {
	if name := peerName(e.authority, e.Addr); name != "" {
		return " to " + name
	}
	return ""
}

// peerName returns the name of a peer: its host and its address, as far as they are known and
// differ.
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

// reason returns the part of the text after the peer's name.
func (e *ConnError) reason() string {
	var b strings.Builder
	switch {
	case e.closedAfterGoAway():
		return e.closedReason()
	case e.isGoAway() && e.FromPeer:
		fmt.Fprintf(&b, "peer sent GOAWAY (last stream %d): %v", e.LastStreamID, e.Code)
		if len(e.Debug) > 0 {
			fmt.Fprintf(&b, " %.256q", e.Debug)
		}
		if e.Err != nil {
			b.WriteString(": " + bare(e.Err))
		}
	case e.isGoAway() && e.Err != nil:
		fmt.Fprintf(&b, "%v: %s", e.Code, bare(e.Err))
	case e.Err != nil && e.how == connLostEarly:
		b.WriteString("waiting for the peer's SETTINGS: " + bare(e.Err))
	case e.Err != nil:
		b.WriteString(bare(e.Err))
	default:
		b.WriteString(e.Code.String())
	}
	return b.String()
}

// notProcessed reports whether the request that got this error was never sent.
func (e *ConnError) notProcessed() bool { return e.processed == neverProcessed }

// Unwrap returns Err. The code of a GOAWAY is found by Is and As.
func (e *ConnError) Unwrap() error { return e.Err }

// Timeout reports whether the connection ended because the peer was silent. Timeout and Temporary
// make ConnError a net.Error.
func (e *ConnError) Timeout() bool {
	return errors.Is(e.Err, ErrPingTimeout) || errors.Is(e.Err, ErrWriteStalled) ||
		errors.Is(e.Err, ErrHandshakeTimeout) || e.Code == ErrCodeSettingsTimeout || isTimeout(e.Err)
}

// Temporary returns false. It exists for net.Error.
func (e *ConnError) Temporary() bool { return false }

// A RequestError is a mistake in a request that was found before anything was sent. Nothing reached
// the peer, and the connection is unchanged. It is not Retryable: the request would fail again.
type RequestError struct {
	Field string // the header field, pseudo-header field or struct field at fault
	// Reason says what is wrong. It quotes up to 64 bytes of the value, unless the field may hold a
	// secret.
	Reason string
}

// Error names the field, its value and what is wrong with it: `hyper: request: :path "foo bar" has
// a space`.
func (e *RequestError) Error() string {
	field := e.Field
	if !syntax.IsToken(strings.TrimPrefix(field, ":")) {
		field = quoted(field)
	}
	return prefix + "request: " + field + " " + e.Reason
}

// notProcessed returns false: to send the request again would not help.
func (e *RequestError) notProcessed() bool { return false }

// quoted returns a value of a caller or a peer as a quoted string in ASCII, on one line, and cut
// off after 64 bytes.
func quoted(s string) string {
	if len(s) > 64 {
		return strconv.QuoteToASCII(s[:64]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// A BodyLengthError reports a request body that does not have its declared length. If the body is
// too short, the stream is reset with CANCEL. If it is too long, hyper does not send the first
// extra byte.
type BodyLengthError struct {
	Declared int64 // bytes
	Got      int64 // bytes read from the body; Declared+1 or more if it is too long
}

// Error says whether the body was too short or too long.
func (e *BodyLengthError) Error() string {
	if e.Got > e.Declared {
		return fmt.Sprintf("hyper: request body is longer than its content-length %d", e.Declared)
	}
	return fmt.Sprintf("hyper: request body ended after %d bytes of its content-length %d", e.Got,
		e.Declared)
}

// A MalformedError reports a response or a push that breaks RFC 9113 §8. It comes inside a
// StreamError with the code ErrCodeProtocol.
type MalformedError struct {
	Reason string
}

// Error says what is malformed.
func (e *MalformedError) Error() string { return prefix + "malformed message: " + e.Reason }

// A NotHTTP2Error is returned by Dial and NewConn when TLS did not negotiate HTTP/2. Conn is the
// live connection after its handshake. It now belongs to the caller, which can use it with another
// protocol or close it. The error is Retryable over that protocol.
type NotHTTP2Error struct {
	Negotiated string // by ALPN; empty if the server chose no protocol, which means HTTP/1.1
	Conn       net.Conn

	host string // Config.Authority, or else the TLS server name
}

// Error names the server and the protocol that it negotiated.
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

// notProcessed returns true: no request was sent.
func (e *NotHTTP2Error) notProcessed() bool { return true }

// Retryable reports whether the peer has provably not processed the request that ended with err. If
// so, sending the request again, on this or another connection, cannot do its work twice (RFC 9113
// §8.7). Retryable returns true in these cases:
//
//   - The peer refused the stream, or its GOAWAY says that it did not process the stream, and
//     nothing of a response had arrived: no interim or final response, and no promise of a push.
//   - The request was never sent: it waited on a connection that ended, or it came to a connection
//     that accepts no more requests.
//   - There was no connection to send it on: dialing failed, the proxy refused, TLS failed or did
//     not negotiate HTTP/2, or any of that took longer than Config.HandshakeTimeout.
//
// It returns false for a mistake of the caller (*RequestError), for the end of the caller's
// context, and for a connection that the caller has closed (ErrClosed).
//
// Retryable looks into errors that wrap others, such as a *url.Error. The outermost error of hyper
// decides. A *net.OpError of "dial" or "proxyconnect", which Transport returns as net/http does,
// counts as an error of hyper.
func Retryable(err error) bool {
	is, _ := notProcessed(err)
	return is
}

// notProcessed finds the outermost error in err that knows whether the request was processed, and
// returns what it says. known reports whether there is one. An error further in may be about
// another request, such as the CONNECT request of the tunnel below the connection.
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
	// It is the error of a handshake. After the handshake it comes inside a ConnError.
	case tls.RecordHeaderError:
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

// streamErr returns the error of a stream that this side ends.
func streamErr(id uint32, code ErrCode, reason error) *StreamError {
	return &StreamError{StreamID: id, Code: code, Err: reason}
}

// connErr returns the error of a connection that this side ends with a GOAWAY.
func connErr(code ErrCode, format string, args ...any) *ConnError {
	return &ConnError{Code: code, Err: fmt.Errorf(format, args...), how: connGoAway}
}

// An afterGoAway is the reason why this side ended a connection whose peer had sent GOAWAY.
type afterGoAway struct {
	err    error
	goAway *ConnError
}

// Error returns the reason and the text of the peer's GOAWAY.
func (e *afterGoAway) Error() string { return bare(e.err) + "; before that, " + e.goAway.reason() }

// Unwrap returns the reason and the peer's GOAWAY.
func (e *afterGoAway) Unwrap() []error { return []error{e.err, e.goAway} }

// because returns a copy of e with err as its Err. For the peer's GOAWAY, that is what happened
// after it.
func (e *ConnError) because(err error) *ConnError {
	told := *e
	told.Err = err
	return &told
}

// lostErr returns the error of a connection that was lost to a network error.
func lostErr(err error) *ConnError {
	if errors.Is(err, io.EOF) || err == io.ErrUnexpectedEOF {
		err = errPeerClosed
	}
	return &ConnError{FromPeer: true, Err: err}
}

// errPeerClosed means that the peer closed the connection.
var errPeerClosed = fmt.Errorf("peer closed the connection: %w", io.ErrUnexpectedEOF)

// asConnError returns the error that ended the connection as a ConnError.
func asConnError(err error) *ConnError {
	var we *wire.Error
	var ce *ConnError
	switch {
	case errors.As(err, &ce):
		return ce
	case errors.As(err, &we):
		return &ConnError{Code: ErrCode(we.Code), Err: errors.New(we.Reason), how: connGoAway}
	}
	return lostErr(err)
}
