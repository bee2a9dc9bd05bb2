package hyper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/wire"
)

func TestErrorTexts(t *testing.T) {
	goAway := &ConnError{Code: ErrCodeEnhanceYourCalm, FromPeer: true, LastStreamID: 3,
		Debug: []byte("too \"much\""), how: connGoAway}
	unsent := *goAway
	unsent.Err = ErrDrained
	shutdown := &ConnError{FromPeer: true, LastStreamID: 3, how: connGoAway}
	for want, err := range map[string]error{
		"hyper: stream 5: peer reset: REFUSED_STREAM": &StreamError{
			StreamID: 5, Code: ErrCodeRefusedStream, FromPeer: true,
		},
		"hyper: stream 5: reset: CANCEL": &StreamError{
			StreamID: 5, Code: ErrCodeCancel,
		},
		"hyper: stream 5: PROTOCOL_ERROR: malformed message: why": &StreamError{
			StreamID: 5, Code: ErrCodeProtocol, Err: &MalformedError{"why"},
		},
		"hyper: stream 7: not processed: connection: peer sent GOAWAY (last stream 3): ENHANCE_YOUR_CALM " +
			"\"too \\\"much\\\"\"": &StreamError{
			StreamID: 7, Code: ErrCodeEnhanceYourCalm, FromPeer: true, Err: goAway,
			processed: neverProcessed},
		"hyper: connection: peer sent GOAWAY (last stream 3): ENHANCE_YOUR_CALM \"too \\\"much\\\"\"": goAway,
		"hyper: connection: peer sent GOAWAY (last stream 3): ENHANCE_YOUR_CALM \"too \\\"much\\\"\": " +
			"connection accepts no more requests": &unsent,
		"hyper: connection: FLOW_CONTROL_ERROR: 7 bytes too many": connErr(ErrCodeFlowControl,
			"%d bytes too many", 7),
		"hyper: stream 7: not processed: connection: peer sent GOAWAY (last stream 3): NO_ERROR (" +
			gracefulText + ")": &StreamError{
			StreamID: 7, FromPeer: true, Err: shutdown, processed: neverProcessed},
		"hyper: connection: http2: server sent GOAWAY and closed the connection; LastStreamID=3, " +
			"ErrCode=ENHANCE_YOUR_CALM, " +
			"debug=\"too \\\"much\\\"\": unexpected EOF": goAway.because(errPeerClosed),
		"hyper: connection: http2: server sent GOAWAY and closed the connection; LastStreamID=3, " +
			"ErrCode=NO_ERROR, debug=\"\": read: broken": shutdown.because(
			&net.OpError{Op: "read", Err: errors.New("broken")}),
		"hyper: connection: peer sent GOAWAY (last stream 3): NO_ERROR: peer did not acknowledge a PING " +
			"(http2: client connection lost)": shutdown.because(ErrPingTimeout),
		"hyper: connection: peer did not acknowledge a PING (http2: client connection lost)": &ConnError{
			Err: ErrPingTimeout,
		},
		"hyper: connection: peer accepts no bytes (http2: client connection lost)": &ConnError{
			Err: ErrWriteStalled,
		},
		"hyper: connection: peer closed the connection: unexpected EOF": lostErr(io.EOF),
		"hyper: connection: SETTINGS_TIMEOUT": &ConnError{
			Code: ErrCodeSettingsTimeout,
		},
		"hyper: connection closed": ErrClosed,
		"hyper: request: te is wrong": &RequestError{
			"te", "is wrong",
		},
		"hyper: request body is longer than its content-length 3": &BodyLengthError{
			Declared: 3, Got: 4,
		},
		"hyper: request body ended after 2 bytes of its content-length 3": &BodyLengthError{
			Declared: 3, Got: 2,
		},
		"hyper: server negotiated \"http/1.1\", not HTTP/2": &NotHTTP2Error{
			Negotiated: "http/1.1",
		},
		"hyper: server did not negotiate HTTP/2 (no ALPN protocol; it speaks HTTP/1.1)": &NotHTTP2Error{},
		"ErrCode: HTTP_1_1_REQUIRED": fmt.Errorf("ErrCode: %w", ErrCodeHTTP11Required),
	} {
		if got := err.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestLongDebugDataIsCutInTheText(t *testing.T) {
	err := &ConnError{FromPeer: true, Debug: make([]byte, 1<<16), how: connGoAway}
	if n := len(err.Error()); n > 2000 {
		t.Errorf("a text of %d octets", n)
	}
}

func TestEveryCodeHasItsName(t *testing.T) {
	// These are in the order of RFC 9113 §7.
	for i, name := range []string{
		"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
		"STREAM_CLOSED", "FRAME_SIZE_ERROR",
		"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
		"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
	} {
		if got := ErrCode(i).String(); got != name {
			t.Errorf("%d is %s, want %s", i, got, name)
		}
	}
	if got := ErrCode(0xbad).Error(); got == "" {
		t.Error("an unknown code has no text")
	}
}

func TestErrorsCanBeAskedForTheirCodeAndReason(t *testing.T) {
	goAway := &ConnError{Code: ErrCodeNo, FromPeer: true, how: connGoAway}
	for name, test := range map[string]struct {
		err     error
		is, not []error
	}{
		"a reset by the peer": {&StreamError{Code: ErrCodeInternal, FromPeer: true}, []error{ErrCodeInternal},
			[]error{ErrCodeCancel, ErrCodeNo, ErrCanceled}},
		"a stream of a GOAWAY": {&StreamError{Code: ErrCodeNo, FromPeer: true, Err: goAway},
			[]error{ErrCodeNo, goAway}, []error{ErrClosed}},
		"a cancelled context": {streamErr(1, ErrCodeCancel, context.Canceled),
			[]error{ErrCodeCancel, context.Canceled}, []error{context.DeadlineExceeded}},
		"our GOAWAY": {connErr(ErrCodeProtocol, "reason: %w", os.ErrInvalid),
			[]error{ErrCodeProtocol, os.ErrInvalid}, []error{ErrCodeNo}},
		"a GOAWAY without trouble": {goAway, []error{ErrCodeNo}, []error{ErrDrained}},
		// A connection that was lost has no error code. NO_ERROR would mean that nothing went
		// wrong.
		"a lost connection": {lostErr(io.EOF), []error{io.ErrUnexpectedEOF}, []error{ErrCodeNo, io.EOF}},
		"a broken rule": {asConnError(&wire.Error{Code: wire.FrameSizeError, Reason: "why"}),
			[]error{ErrCodeFrameSize}, []error{ErrCodeNo}},
		"wrapped": {fmt.Errorf("at work: %w", connErr(ErrCodeCompression, "why")),
			[]error{ErrCodeCompression}, []error{ErrCodeNo}},
	} {
		for _, target := range test.is {
			if !errors.Is(test.err, target) {
				t.Errorf("%s: %v is not %v", name, test.err, target)
			}
		}
		for _, target := range test.not {
			if errors.Is(test.err, target) {
				t.Errorf("%s: %v is %v", name, test.err, target)
			}
		}
	}
}

func TestRetryable(t *testing.T) {
	// RFC 9113 §8.7: a request was not processed if its stream was refused or is above a GOAWAY's
	// last stream.
	goAway := &ConnError{Code: ErrCodeNo, FromPeer: true, LastStreamID: 1, how: connGoAway}
	refused := &StreamError{StreamID: 1, Code: ErrCodeRefusedStream, FromPeer: true}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"none":                         {nil, false},
		"anything else":                {io.ErrUnexpectedEOF, false},
		"ErrClosed":                    {ErrClosed, false},
		"refused by the peer":          {refused, true},
		"refused by the peer, wrapped": {fmt.Errorf("at work: %w", refused), true},
		"refused by us, a push":        {streamErr(2, ErrCodeRefusedStream, nil), false},
		"reset by the peer":            {&StreamError{Code: ErrCodeCancel, FromPeer: true}, false},
		"HTTP_1_1_REQUIRED":            {&StreamError{Code: ErrCodeHTTP11Required, FromPeer: true}, false},
		"cancelled by us":              {streamErr(1, ErrCodeCancel, ErrCanceled), false},
		"above the last of a GOAWAY": {
			&StreamError{Code: ErrCodeNo, FromPeer: true, Err: goAway, processed: neverProcessed}, true,
		},
		"up to the last of a GOAWAY": {goAway, false},
		"a reset that quotes a GOAWAY": {
			&StreamError{Code: ErrCodeNo, Err: &ConnError{processed: neverProcessed}}, false,
		},
		"a lost connection": {lostErr(io.EOF), false},
		"a lost connection, never sent": {
			&ConnError{FromPeer: true, Err: io.EOF, processed: neverProcessed}, true,
		},
		"REFUSED_STREAM of a connection": {
			&ConnError{Code: ErrCodeRefusedStream, FromPeer: true, how: connGoAway}, false,
		},
		"a mistake of the caller's":       {&RequestError{"a", "b"}, false},
		"a context that ended":            {context.Canceled, false},
		"a code that came from elsewhere": {ErrCodeRefusedStream, false},
	} {
		if got := Retryable(test.err); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestConnErrorIsANetError(t *testing.T) {
	for name, test := range map[string]struct {
		err  *ConnError
		want bool
	}{
		"no answer to PING":  {&ConnError{Err: ErrPingTimeout}, true},
		"a stalled write":    {&ConnError{Err: ErrWriteStalled}, true},
		"no SETTINGS":        {&ConnError{Err: ErrHandshakeTimeout}, true},
		"no acknowledgment":  {connErr(ErrCodeSettingsTimeout, "none"), true},
		"a socket's timeout": {lostErr(&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}), true},
		"a lost connection":  {lostErr(io.EOF), false},
		"a GOAWAY":           {&ConnError{FromPeer: true, how: connGoAway}, false},
	} {
		var ne net.Error
		if !errors.As(fmt.Errorf("at work: %w", test.err), &ne) || ne.Timeout() != test.want {
			t.Errorf("%s: Timeout is %v", name, test.err.Timeout())
		}
	}
}

// RFC 9113 §7 and §6.5.2 give codes and settings their numbers.
func TestCodesAndSettingsHaveTheNumbersOfTheRFC(t *testing.T) {
	codes := []ErrCode{ErrCodeNo, ErrCodeProtocol, ErrCodeInternal, ErrCodeFlowControl,
		ErrCodeSettingsTimeout, ErrCodeStreamClosed, ErrCodeFrameSize, ErrCodeRefusedStream, ErrCodeCancel,
		ErrCodeCompression, ErrCodeConnect, ErrCodeEnhanceYourCalm, ErrCodeInadequateSecurity,
		ErrCodeHTTP11Required}
	names := "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED " +
		"FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM " +
		"INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
	for i, name := range strings.Fields(names) {
		if codes[i] != ErrCode(i) || codes[i].String() != name {
			t.Errorf("code %d is %d, %v; want %s", i, codes[i], codes[i], name)
		}
	}
	for id, want := range map[SettingID]wire.SettingID{
		SettingHeaderTableSize:       wire.SettingHeaderTableSize,
		SettingEnablePush:            wire.SettingEnablePush,
		SettingMaxConcurrentStreams:  wire.SettingMaxConcurrentStreams,
		SettingInitialWindowSize:     wire.SettingInitialWindowSize,
		SettingMaxFrameSize:          wire.SettingMaxFrameSize,
		SettingMaxHeaderListSize:     wire.SettingMaxHeaderListSize,
		SettingEnableConnectProtocol: wire.SettingEnableConnectProtocol,
		SettingNoRFC7540Priorities:   wire.SettingNoRFC7540Priorities,
	} {
		if uint16(id) != uint16(want) {
			t.Errorf("%v is %d, want %d", id, id, want)
		}
	}
}
