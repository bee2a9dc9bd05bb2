package hyper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

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

	// ErrDrained is returned, inside a ConnError, for new requests on a connection that cannot take any more:
	// the peer sent GOAWAY or the stream identifiers are used up. Such requests are Retryable on another one.
	ErrDrained = errors.New("hyper: connection takes no more requests")

	// ErrPingTimeout: the peer did not answer a PING in time (Config.PingTimeout).
	ErrPingTimeout = errors.New("hyper: peer does not answer PING")

	// ErrWriteStalled: the peer accepted nothing for Config.WriteStallTimeout.
	ErrWriteStalled = errors.New("hyper: peer does not read")

	// ErrWindowStalled: a reader waited for Config.WindowStallTimeout at a receive window that its manager did not
	// open. It comes inside a StreamError, or a ConnError where it is the connection's window, which says how it stood.
	ErrWindowStalled = errors.New("hyper: window manager grants nothing")

	// ErrHandshakeTimeout: the peer's SETTINGS did not come within Config.HandshakeTimeout.
	ErrHandshakeTimeout = errors.New("hyper: peer sent no SETTINGS")
)

// A StreamError is the end of one stream; its connection lives on.
type StreamError struct {
	StreamID uint32
	Code     ErrCode // sent or received in RST_STREAM
	FromPeer bool    // the peer ended the stream
	Err      error   // why, where more is known than the code; may be nil

	unprocessed bool // the peer has provably not acted on the request
}

// Error names the stream, who ended it, and why.
func (e *StreamError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stream %d: ", e.StreamID)
	switch {
	case e.Err != nil && e.FromPeer && e.unprocessed:
		fmt.Fprintf(&b, "not processed: %v", e.Err)
	case e.Err != nil:
		fmt.Fprintf(&b, "%v: %v", e.Code, e.Err)
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

// A ConnError is the end of a connection. Every call that was waiting on it returns it, and every later call.
type ConnError struct {
	Code         ErrCode // of the GOAWAY, sent or received; NoError where the connection was lost without one
	FromPeer     bool    // the peer ended the connection
	LastStreamID uint32  // of a GOAWAY from the peer: streams above it were not processed
	Debug        []byte  // opaque octets of the peer's GOAWAY
	Err          error   // why, where more is known than the code: a network error, a broken rule; may be nil

	goAway      bool // a GOAWAY said so, in either direction
	unprocessed bool // the request that got this error was never sent
}

// Error says who ended the connection, and why.
func (e *ConnError) Error() string {
	var b strings.Builder
	b.WriteString("connection: ")
	switch {
	case e.goAway && e.FromPeer:
		fmt.Fprintf(&b, "peer sent GOAWAY (last stream %d): %v", e.LastStreamID, e.Code)
		if len(e.Debug) > 0 {
			fmt.Fprintf(&b, " %.256q", e.Debug)
		}
		if e.Err != nil {
			fmt.Fprintf(&b, ": %v", e.Err)
		}
	case e.goAway && e.Err != nil:
		fmt.Fprintf(&b, "%v: %v", e.Code, e.Err)
	case e.Err != nil:
		fmt.Fprintf(&b, "%v", e.Err)
	default:
		fmt.Fprintf(&b, "%v", e.Code)
	}
	return b.String()
}

// Unwrap returns the code, if a GOAWAY carried one, and the reason, for errors.Is and errors.As.
func (e *ConnError) Unwrap() (list []error) {
	if e.goAway {
		list = append(list, e.Code)
	}
	if e.Err != nil {
		list = append(list, e.Err)
	}
	return list
}

// Timeout reports whether the connection ended because the peer was silent. It makes ConnError a net.Error.
func (e *ConnError) Timeout() bool {
	var ne net.Error
	return errors.Is(e.Err, ErrPingTimeout) || errors.Is(e.Err, ErrWriteStalled) || errors.Is(e.Err, ErrHandshakeTimeout) ||
		e.Code == SettingsTimeout || errors.As(e.Err, &ne) && ne.Timeout()
}

// Temporary is false: it exists for net.Error.
func (e *ConnError) Temporary() bool { return false }

// A RequestError is a mistake in a request that was found before anything was sent: nothing reached
// the peer, and the connection is as it was.
type RequestError struct {
	Field  string // the header field, pseudo-header field or struct field at fault
	Reason string
}

func (e *RequestError) Error() string { return fmt.Sprintf("hyper: request: %q %s", e.Field, e.Reason) }

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

func (e *MalformedError) Error() string { return "malformed message: " + e.Reason }

// A NotHTTP2Error is returned by Dial and NewConn when TLS did not negotiate HTTP/2. Conn is the live connection,
// handshake done, for the caller to use with another protocol or to close: it is the caller's now.
type NotHTTP2Error struct {
	Negotiated string // by ALPN; empty when the server chose nothing, which means HTTP/1.1
	Conn       net.Conn
}

func (e *NotHTTP2Error) Error() string {
	if e.Negotiated == "" {
		return "hyper: server did not negotiate HTTP/2 (no ALPN protocol; it speaks HTTP/1.1)"
	}
	return fmt.Sprintf("hyper: server negotiated %q, not HTTP/2", e.Negotiated)
}

// Retryable reports whether the peer has provably not processed the request that ended with err, so
// that sending it again, on this or another connection, cannot do its work twice (RFC 9113 §8.7): the stream was
// refused, it lies above the last stream of a GOAWAY, or nothing of it was ever sent.
func Retryable(err error) bool {
	var s *StreamError
	if errors.As(err, &s) {
		return s.unprocessed || s.FromPeer && s.Code == RefusedStream
	}
	var c *ConnError
	return errors.As(err, &c) && c.unprocessed
}

// streamErr makes the error of a stream that this side ends.
func streamErr(id uint32, code ErrCode, reason error) *StreamError {
	return &StreamError{StreamID: id, Code: code, Err: reason}
}

// connErr makes the error of a connection that this side ends with a GOAWAY.
func connErr(code ErrCode, format string, args ...any) *ConnError {
	return &ConnError{Code: code, Err: fmt.Errorf(format, args...), goAway: true}
}

// lostErr makes the error of a connection that was lost to a network error.
func lostErr(err error) *ConnError {
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("peer closed the connection: %w", io.ErrUnexpectedEOF)
	}
	return &ConnError{FromPeer: true, Err: err}
}

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
