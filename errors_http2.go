package hyper

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Programs recognize the failures of net/http's HTTP/2 by parts of their texts, which have no other
// name, or by the types of golang.org/x/net/http2. The errors of this package contain the same
// texts in the same states, and errors.As finds those types in them. That package is not imported:
// it would bring a second implementation of HTTP/2 into every program.
const (
	lostText     = "http2: client connection lost" // a PING was not answered
	closedText   = "http2: server sent GOAWAY and closed the connection; LastStreamID=%d, ErrCode=%s, debug=%.256q"
	gracefulText = "http2: Transport received Server's graceful shutdown GOAWAY" // and the stream is above its last
)

// codeText returns the name of c in the texts of net/http, which differs for unknown codes.
func codeText(c ErrCode) string {
	name := c.String()
	if strings.HasPrefix(name, "ERROR_") {
		return fmt.Sprintf("unknown error code 0x%x", uint32(c))
	}
	return name
}

// closedAfterGoAway reports whether the peer sent GOAWAY and the connection was lost to the network
// after that. A timeout, and an end that this side chose, have texts of their own.
func (e *ConnError) closedAfterGoAway() bool {
	if !e.goAway || !e.FromPeer || e.Err == nil {
		return false
	}
	for _, other := range []error{ErrDrained, ErrClosed, ErrPingTimeout, ErrWriteStalled, ErrHandshakeTimeout} {
		if errors.Is(e.Err, other) {
			return false
		}
	}
	return true
}

// closedReason is the text of an error for which closedAfterGoAway is true.
func (e *ConnError) closedReason() string {
	text := fmt.Sprintf(closedText, e.LastStreamID, codeText(e.Code), e.Debug)
	if e.Err == errPeerClosed { // the text has said so
		return text + ": " + errors.Unwrap(e.Err).Error()
	}
	return text + ": " + bare(e.Err)
}

// graceful reports whether the stream was not processed because the peer shuts down in order.
func (e *StreamError) graceful() bool {
	var goAway *ConnError
	return e.unprocessed && errors.As(e.Err, &goAway) && goAway.goAway && goAway.FromPeer && goAway.Code == NoError
}

// Is reports whether target is the ErrCode of a GOAWAY, sent or received, that ended the
// connection.
func (e *ConnError) Is(target error) bool {
	code, ok := target.(ErrCode)
	return ok && e.goAway && e.Code == code
}

// As serves errors.As. It sets an *ErrCode where a GOAWAY carried a code, and the types of
// golang.org/x/net/http2, or of a copy of it: a GoAwayError where the peer sent GOAWAY, and a
// ConnectionError where this side did, because the peer broke a rule.
func (e *ConnError) As(target any) bool {
	if code, ok := target.(*ErrCode); ok && e.goAway {
		*code = e.Code
		return true
	}
	to, ok := settable(target)
	switch {
	case !ok || !e.goAway:
		return false
	case e.FromPeer:
		return setFields(to, map[string]any{
			"LastStreamID": e.LastStreamID, "ErrCode": uint32(e.Code), "DebugData": string(e.Debug),
		})
	case to.Kind() == reflect.Uint32 && to.Type().Name() == "ConnectionError":
		to.SetUint(uint64(e.Code))
		return true
	}
	return false
}

// As serves errors.As: it sets a StreamError of golang.org/x/net/http2, or of a copy of it, as
// net/http's own error does.
func (e *StreamError) As(target any) bool {
	to, ok := settable(target)
	if !ok {
		return false
	}
	fields := map[string]any{"StreamID": e.StreamID, "Code": uint32(e.Code), "Cause": nil}
	if cause := e.cause(); cause != nil {
		fields["Cause"] = withoutPrefix(cause)
	}
	return setFields(to, fields)
}

// cause is what net/http has as the cause of a stream's end.
func (e *StreamError) cause() error {
	if e.FromPeer && e.Err == nil {
		return errFromPeer
	}
	return e.Err
}

var errFromPeer = errors.New("received from peer")

// settable returns what target points to.
func settable(target any) (to reflect.Value, ok bool) {
	pointer := reflect.ValueOf(target)
	if pointer.Kind() != reflect.Pointer || pointer.IsNil() {
		return to, false
	}
	return pointer.Elem(), pointer.Elem().CanSet()
}

// setFields sets the fields of a struct that has these fields and no others: numbers and strings of
// any type, and errors. It reports false, and changes nothing, where the struct is another one.
func setFields(to reflect.Value, fields map[string]any) bool {
	if to.Kind() != reflect.Struct || to.NumField() != len(fields) {
		return false
	}
	for name, value := range fields {
		if declared, ok := to.Type().FieldByName(name); !ok || len(declared.Index) > 1 { // of an embedded struct
			return false
		}
		field := to.FieldByName(name)
		kind := reflect.Interface
		if _, isError := value.(error); !isError && value != nil {
			kind = reflect.TypeOf(value).Kind()
		}
		if !field.CanSet() || field.Kind() != kind {
			return false
		}
		if kind == reflect.Interface && field.Type() != reflect.TypeFor[error]() {
			return false
		}
	}
	for name, value := range fields {
		field := to.FieldByName(name)
		if value == nil {
			field.SetZero()
		} else {
			field.Set(reflect.ValueOf(value).Convert(field.Type()))
		}
	}
	return true
}
