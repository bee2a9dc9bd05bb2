package hyper

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Programs recognize the errors of net/http's HTTP/2 by parts of their texts, because these errors
// have no exported name, or by the types of golang.org/x/net/http2. The errors of this package
// contain the same texts in the same situations, and errors.As finds those types in them. This
// package does not import golang.org/x/net/http2: that would add a second implementation of HTTP/2
// to every program.
const (
	lostText   = "http2: client connection lost" // a PING was not acknowledged
	closedText = "http2: server sent GOAWAY and closed the connection; LastStreamID=%d, ErrCode=%s, " +
		"debug=%.256q"
	// gracefulText is for a stream above the last stream of the GOAWAY.
	gracefulText = "http2: Transport received Server's graceful shutdown GOAWAY"
)

// codeText returns the name of c in the texts of net/http. It differs from String for unknown
// codes.
func codeText(c ErrCode) string {
	name := c.String()
	if strings.HasPrefix(name, "ERROR_") {
		return fmt.Sprintf("unknown error code 0x%x", uint32(c))
	}
	return name
}

// closedAfterGoAway reports whether the peer sent GOAWAY and the connection was then lost to the
// network. A timeout, and an end that this side chose, have texts of their own.
func (e *ConnError) closedAfterGoAway() bool {
	if !e.isGoAway() || !e.FromPeer || e.Err == nil {
		return false
	}
	for _, other := range []error{ErrDrained, ErrClosed, ErrPingTimeout, ErrWriteStalled,
		ErrHandshakeTimeout} {
		if errors.Is(e.Err, other) {
			return false
		}
	}
	return true
}

// closedReason returns the text of an error for which closedAfterGoAway is true.
func (e *ConnError) closedReason() string {
	text := fmt.Sprintf(closedText, e.LastStreamID, codeText(e.Code), e.Debug)
	if e.Err == errPeerClosed { // text says so already
		return text + ": " + errors.Unwrap(e.Err).Error()
	}
	return text + ": " + bare(e.Err)
}

// graceful reports whether the stream was not processed because the peer shuts down gracefully.
func (e *StreamError) graceful() bool {
	var goAway *ConnError
	return e.processed == neverProcessed && errors.As(e.Err, &goAway) && goAway.isGoAway() &&
		goAway.FromPeer && goAway.Code == ErrCodeNo
}

// Is reports whether target is the ErrCode of a GOAWAY, sent or received, that ended the
// connection.
func (e *ConnError) Is(target error) bool {
	code, ok := target.(ErrCode)
	return ok && e.isGoAway() && e.Code == code
}

// As supports errors.As. If a GOAWAY carried a code, As sets an *ErrCode. It also sets the types of
// golang.org/x/net/http2, or of a copy of that package: a GoAwayError if the peer sent GOAWAY, and
// a ConnectionError if this side sent it because the peer broke a rule.
func (e *ConnError) As(target any) bool {
	if code, ok := target.(*ErrCode); ok && e.isGoAway() {
		*code = e.Code
		return true
	}
	to, ok := settable(target)
	switch {
	case !ok || !e.isGoAway():
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

// As supports errors.As. It sets a StreamError of golang.org/x/net/http2, or of a copy of that
// package, as net/http's own error does.
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

// cause returns the error that net/http gives as the cause of the stream's end.
func (e *StreamError) cause() error {
	if e.FromPeer && e.Err == nil {
		return errFromPeer
	}
	return e.Err
}

// errFromPeer is net/http's cause for a stream that the peer reset.
var errFromPeer = errors.New("received from peer")

// settable returns the value to which target points. ok reports whether it can be set.
func settable(target any) (to reflect.Value, ok bool) {
	pointer := reflect.ValueOf(target)
	if pointer.Kind() != reflect.Pointer || pointer.IsNil() {
		return to, false
	}
	return pointer.Elem(), pointer.Elem().CanSet()
}

// setFields sets the fields of a struct that has exactly the fields with these names. Their types
// may be any types of the values' kinds, or error. If the struct is another one, setFields changes
// nothing and returns false.
func setFields(to reflect.Value, fields map[string]any) bool {
	if to.Kind() != reflect.Struct || to.NumField() != len(fields) {
		return false
	}
	for name, value := range fields {
		// A longer index is that of a field of an embedded struct.
		if declared, ok := to.Type().FieldByName(name); !ok || len(declared.Index) > 1 {
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
