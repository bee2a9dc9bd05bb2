package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// A DialError is the error for a connection that could not be made: dialing, a proxy or TLS failed,
// or took too long. No part of any request was sent. A DialError is Retryable unless the caller's
// own context ended the attempt.
//
// RoundTrip returns the inner error instead where programs look for net/http's type: the
// *net.OpError of a dial, a *tls.CertificateVerificationError, and the tls.RecordHeaderError of a
// server that responds in HTTP without TLS.
type DialError struct {
	Host string   // host and port of the destination
	Addr net.Addr // its address; nil if that is unknown
	Err  error    // the reason

	phase   string
	context error         // the error of the context that ended the attempt; nil: none did
	timeout time.Duration // Config.HandshakeTimeout, if that ended the attempt; else 0
	// asItIs says that the text is that of Err alone, as in net/http: an http.Transport's own
	// functions made the connection.
	asItIs bool

	// inTLS says that there was a transport connection and its TLS handshake failed.
	inTLS bool
}

// judge determines which context, if any, ended the phase. ctx is a context of dialTimeout under
// which the phase ran.
func (e *DialError) judge(ctx context.Context, timeout time.Duration) *DialError {
	// The socket's own timer may fire slightly before that of ctx.
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	switch {
	case ctx.Err() == nil:
	case timeout > 0 && errors.Is(context.Cause(ctx), ErrHandshakeTimeout):
		e.context, e.timeout = context.DeadlineExceeded, timeout
	default:
		e.context = contextError(ctx)
	}
	return e
}

// tlsFailed returns the error of a TLS handshake on nc.
func tlsFailed(nc net.Conn, host string, err error) *DialError {
	return &DialError{phase: "TLS handshake with", Host: host, Addr: nc.RemoteAddr(), Err: err, inTLS: true}
}

// Error names the phase, the destination, and the reason:
//
//	hyper: dial example.com:443 (192.0.2.1:443): connect: connection refused
func (e *DialError) Error() string {
	if e.readsAsErr() {
		return e.Err.Error()
	}
	at, why := e.Addr, e.Err
	// A *net.OpError repeats the phase and the address, without the host.
	if op, ok := why.(*net.OpError); ok && op.Op == "dial" {
		at, why = op.Addr, op.Err
	}
	text := prefix + e.phase + " " + peerName(e.Host, at) + ": "
	switch {
	case e.timeout > 0:
		text += fmt.Sprintf("not done within Config.HandshakeTimeout, %v", e.timeout)
		if e.Err == e.context {
			return text
		}
		text += ": "
	case e.context != nil && !errors.Is(e.Err, e.context):
		text += e.context.Error() + ": "
	}
	return text + bare(why)
}

// Unwrap returns the reason, and the timeout or context error that ended the attempt.
func (e *DialError) Unwrap() (list []error) {
	if e.timeout > 0 {
		list = append(list, ErrHandshakeTimeout)
	}
	if e.context != nil {
		list = append(list, e.context)
	}
	return append(list, e.Err)
}

// Timeout reports whether the attempt took too long. Timeout and Temporary make DialError a
// net.Error.
func (e *DialError) Timeout() bool {
	return errors.Is(e.context, context.DeadlineExceeded) || isTimeout(e.Err)
}

// Temporary returns the same as Timeout. It exists for net.Error.
func (e *DialError) Temporary() bool { return e.Timeout() }

// notProcessed returns false if the caller's own context has ended, because the caller does not
// want another attempt.
func (e *DialError) notProcessed() bool { return e.context == nil || e.timeout > 0 }

// forHTTP returns the error for users of net/http. Errors of dialing and of certificates have
// net/http's types.
func (e *DialError) forHTTP() error {
	if hook, ok := e.Err.(*proxyHookError); ok && e.context == nil {
		told := *e
		told.Err, told.asItIs = hook.error, true
		return &told
	}
	switch err := e.Err.(type) {
	case *net.OpError:
		if e.timeout == 0 && (err.Op == "dial" || err.Op == "proxyconnect") {
			return err
		}
	case *tls.CertificateVerificationError:
		marked := *err
		marked.Err = unsentError{err.Err}
		return &marked
	case tls.RecordHeaderError:
		// http.Client turns this error into http.ErrSchemeMismatch.
		if string(err.RecordHeader[:]) == "HTTP/" {
			return err
		}
	}
	return e
}

// readsAsErr reports whether the text is that of Err alone, as in net/http.
func (e *DialError) readsAsErr() bool {
	_, op := e.Err.(*net.OpError)
	return e.asItIs && !op
}

// An unsentError wraps the reason in a *tls.CertificateVerificationError. It marks that no part of
// a request had been sent.
type unsentError struct{ error }

// Unwrap returns the reason.
func (e unsentError) Unwrap() error { return e.error }

// notProcessed returns true: no part of a request had been sent.
func (e unsentError) notProcessed() bool { return true }
