package conformance

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// quiet is an idle connection whose requests have only the fields that the caller set.
var quiet = idle.with(hyper.Config{NoUserAgent: true, Authority: "own.example"})

// tunnelling is quiet with a peer that allows extended CONNECT.
var tunnelling = quiet.then(set(setting(wire.SettingEnableConnectProtocol, 1)))

// sends returns a peer that lets the client send req and requires exactly these fields. The
// response is complete and empty.
func sends(req hyper.Request, flags wire.Flags, fields ...string) func(*lab) {
	return func(l *lab) {
		l.t.Helper()
		req := req
		req.NoDefaultFields = true
		l.caller = l.ask(l.do(&req))
		h := l.WantHeadersExactly("the request", l.next, fields...)
		if got := h.Frames[0].Flags &^ wire.EndHeaders; got != flags {
			l.t.Errorf("flags %#x, want %#x", got, flags)
		}
		l.next += 2
	}
}

// answered requires that the exchange of sends ended well.
func answered(l *lab) {
	l.t.Helper()
	l.WriteHeaders(1, wire.EndStream, ":status: 200", "x-state: kept")
	l.want(l.caller, 200, "")
	l.goesOn()
}

// refuses returns a peer that lets a caller try req. The request must fail because of field, before
// anything is sent.
func refuses(req hyper.Request, field string) func(*lab) {
	return func(l *lab) {
		l.t.Helper()
		_, err := l.conn.Do(l.t.Context(), &req)
		var re *hyper.RequestError
		if !errors.As(err, &re) || re.Field != field {
			l.t.Errorf("told %v, want a RequestError of %q", err, field)
		}
		l.WantIdle("nothing is sent")
	}
}

// with returns a request with one field.
func with(name, value string) hyper.Request {
	return hyper.Request{Header: hyper.Header{{Name: name, Value: value}}}
}

// expecting sends a request with a body of 5 bytes and Expect: 100-continue, and reads its HEADERS.
func expecting(l *lab) {
	l.Handshake()
	l.caller = l.send(&hyper.Request{Method: "PUT", Body: strings.NewReader("hello"),
		Header: hyper.Header{{Name: "expect", Value: "100-continue"}}})
	l.WantIdle("the body is held back")
}

// holdingBack is a request whose body waits for 100 (Continue).
var holdingBack = &moment{cfg: hyper.Config{ExpectContinueTimeout: time.Hour, KeepAlive: -1},
	reach: expecting}

// requestRows are about what the client sends.
var requestRows = concat([]row{
	// RFC 9113 §8.3: pseudo-header fields.
	{"9113 §8.3.1", "Get",
		"a request has :method, :scheme, :authority and :path, once each, before all other fields", quiet,
		sends(hyper.Request{Header: hyper.Header{{Name: "a", Value: "1"}}}, wire.EndStream,
			":method: GET", ":scheme: http", ":authority: own.example", ":path: /", "a: 1"), answered},
	{"9113 §8.3.1", "PathAndQuery", ":path is the path with its query", quiet,
		sends(hyper.Request{Path: "/a/b?c=d&e"}, wire.EndStream, ":method: GET", ":scheme: http",
			":authority: own.example", ":path: /a/b?c=d&e"), answered},
	{"9113 §8.3.1", "EmptyPathIsASlash", ":path is never empty: / in its place", quiet,
		sends(hyper.Request{Path: ""}, wire.EndStream, ":method: GET", ":scheme: http",
			":authority: own.example", ":path: /"), answered},
	{"9113 §8.3.1", "OptionsOfTheServer", "OPTIONS may have * for a :path", quiet,
		sends(hyper.Request{Method: "OPTIONS", Path: "*"}, wire.EndStream, ":method: OPTIONS",
			":scheme: http", ":authority: own.example", ":path: *"), answered},
	{"9113 §8.3.1", "HostBecomesAuthority", "host is sent as :authority", quiet,
		sends(with("host", "far.example"), wire.EndStream, ":method: GET", ":scheme: http",
			":authority: far.example", ":path: /"), answered},
	{"9113 §8.3.1", "HostThatIsTheAuthority", "host is not sent beside an :authority of the same value",
		quiet,
		sends(hyper.Request{Authority: "far.example",
			Header: hyper.Header{{Name: "Host", Value: "far.example"}}}, wire.EndStream,
			":method: GET", ":scheme: http", ":authority: far.example", ":path: /"), answered},
	{"9113 §8.3.1", "HostThatDiffers", "host never differs from :authority", quiet,
		refuses(hyper.Request{Authority: "own.example",
			Header: hyper.Header{{Name: "host", Value: "far.example"}}}, "host"), goesOn},
	{"9113 §8.3.1", "Userinfo", ":authority has no userinfo", quiet,
		refuses(hyper.Request{Authority: "me@own.example"}, ":authority"), goesOn},
	{"9113 §8.3.1", "RelativePath", ":path begins with /", quiet, refuses(hyper.Request{Path: "a"}, ":path"),
		goesOn},
	{"9113 §8.3.1", "StarForAnotherMethod", "* is OPTIONS' alone", quiet,
		refuses(hyper.Request{Path: "*"}, ":path"), goesOn},
	{"9113 §8.3.1", "PathWithABlank", ":path has no blanks and control characters", quiet,
		refuses(hyper.Request{Path: "/a b"}, ":path"), goesOn},
	{"9113 §8.3.1", "PathWithANewline", ":path cannot carry another field", quiet,
		refuses(hyper.Request{Path: "/a\r\nx: y"}, ":path"), goesOn},
	{"9110 §7.1", "PathWithAFragment", "a fragment is not sent", quiet,
		refuses(hyper.Request{Path: "/a#b"}, ":path"), goesOn},
	{"9113 §8.3", "PseudoTwice", "a pseudo-header field is there once", quiet,
		refuses(hyper.Request{Header: hyper.Header{{Name: ":path", Value: "/a"},
			{Name: ":path", Value: "/b"}}}, ":path"), goesOn},
	{"9113 §8.3", "PseudoBehindAField", "a pseudo-header field is before all others", quiet,
		refuses(hyper.Request{Header: hyper.Header{{Name: "a", Value: "1"}, {Name: ":path", Value: "/b"}}},
			":path"), goesOn},
	{"9113 §8.3", "PseudoOfAResponse", "a request has no :status", quiet,
		refuses(with(":status", "200"), ":status"), goesOn},
	{"9113 §8.3", "UnknownPseudo", "no pseudo-header fields are made up", quiet,
		refuses(with(":future", "1"), ":future"), goesOn},
	{"9110 §9.1", "MethodThatIsNoToken", "a method is a token", quiet,
		refuses(hyper.Request{Method: "GET /"}, ":method"), goesOn},
	{"9110 §9.1", "MethodsAreCaseSensitive", "a method is sent in the case given", quiet,
		sends(hyper.Request{Method: "get"}, wire.EndStream, ":method: get", ":scheme: http",
			":authority: own.example", ":path: /"), answered},
	{"9110 §4.2", "SchemeThatIsNone", "a scheme is a scheme", quiet,
		refuses(hyper.Request{Scheme: "ht tp"}, ":scheme"), goesOn},

	// §8.2: fields.
	{"9113 §8.2.1", "NamesAreLowerCase", "field names are sent in lower case", quiet,
		sends(with("X-Upper", "Value"), wire.EndStream, ":method: GET", ":scheme: http",
			":authority: own.example", ":path: /", "x-upper: Value"), answered},
	{"9113 §8.2.1", "OrderAndDuplicatesAreKept", "fields of one name stay in their order", quiet,
		sends(hyper.Request{Header: hyper.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"},
			{Name: "a", Value: "3"}}}, wire.EndStream,
			":method: GET", ":scheme: http", ":authority: own.example", ":path: /", "a: 1", "b: 2", "a: 3"),
		answered},
	{"9113 §8.2.3", "CookieIsSplit", "cookie pairs may be split into fields, and are", quiet,
		sends(with("Cookie", "a=b; c=d; e=f"), wire.EndStream,
			":method: GET", ":scheme: http", ":authority: own.example", ":path: /", "cookie: a=b",
			"cookie: c=d", "cookie: e=f"), answered},
	{"9113 §8.2.1", "CookieWithBlanks", "the fields of cookie pairs have no blanks around their values",
		quiet,
		sends(with("Cookie", "a=b ;c=d;;\t e=f;"), wire.EndStream,
			":method: GET", ":scheme: http", ":authority: own.example", ":path: /", "cookie: a=b",
			"cookie: c=d", "cookie: e=f"), answered},
	{"9113 §8.2.2", "TETrailers", "te: trailers may be sent", quiet,
		sends(with("TE", "trailers"), wire.EndStream, ":method: GET", ":scheme: http",
			":authority: own.example", ":path: /", "te: trailers"), answered},
	{"9113 §8.2.2", "TEOther", "te is nothing but trailers", quiet, refuses(with("te", "gzip"), "te"),
		goesOn},
	{"9113 §8.2.2", "TETrailersAndOther", "te is nothing but trailers, in a list either", quiet,
		refuses(with("te", "trailers, gzip"), "te"), goesOn},
	{"9113 §8.2.2", "SendConnection", "no connection-specific field is sent: connection", quiet,
		refuses(with("Connection", "close"), "connection"), goesOn},
	{"9113 §8.2.2", "SendKeepAlive", "no connection-specific field is sent: keep-alive", quiet,
		refuses(with("keep-alive", "5"), "keep-alive"), goesOn},
	{"9113 §8.2.2", "SendProxyConnection", "no connection-specific field is sent: proxy-connection", quiet,
		refuses(with("proxy-connection", "close"), "proxy-connection"), goesOn},
	{"9113 §8.2.2", "SendTransferEncoding", "no connection-specific field is sent: transfer-encoding", quiet,
		refuses(with("Transfer-Encoding", "chunked"), "transfer-encoding"), goesOn},
	{"9113 §8.2.2", "SendUpgrade", "no connection-specific field is sent: upgrade", quiet,
		refuses(with("upgrade", "h2c"), "upgrade"), goesOn},
	{"9113 §8.2.1", "SendNul", "no NUL is sent in a value", quiet, refuses(with("a", "\x00"), "a"), goesOn},
	{"9113 §8.2.1", "SendNewline", "no CR and LF are sent in a value", quiet,
		refuses(with("a", "b\r\nc: d"), "a"), goesOn},
	{"9113 §8.2.1", "SendLeadingBlank", "no blank is sent before a value", quiet,
		refuses(with("a", " b"), "a"), goesOn},
	{"9113 §8.2.1", "SendTrailingTab", "no tab is sent behind a value", quiet,
		refuses(with("a", "b\t"), "a"),
		goesOn},
	{"9110 §5.5", "SendControl", "no control character is sent in a value", quiet,
		refuses(with("a", "b\x07"), "a"), goesOn},
	{"9110 §5.1", "SendBlankInAName", "a field name is a token", quiet, refuses(with("a b", "c"), "a b"),
		goesOn},
	{"9110 §5.1", "SendEmptyName", "a field name is not empty", quiet, refuses(with("", "c"), ""), goesOn},
	{"9110 §5.1", "SendColonInAName", "a field name has no colon within", quiet,
		refuses(with("a:b", "c"), "a:b"), goesOn},
	{"9110 §8.6", "SendTwoLengths", "content-length is sent once", quiet,
		refuses(hyper.Request{Header: hyper.Header{{Name: "content-length", Value: "0"},
			{Name: "content-length", Value: "0"}}}, "content-length"), goesOn},
	{"9110 §8.6", "SendNoNumber", "content-length is a number", quiet,
		refuses(with("content-length", "+0"), "content-length"), goesOn},

	// §8.1: the end of a message.
	{"9113 §8.1", "BodyEndsTheStream", "END_STREAM is on the last DATA of a body", quiet,
		func(l *lab) {
			sends(hyper.Request{Method: "POST", Body: strings.NewReader("hello")}, 0, ":method: POST",
				":scheme: http", ":authority: own.example", ":path: /")(l)
			l.WantBody("the body", 1, []byte("hello"))
		}, answered},
	{"9113 §8.1", "BodyOfUnknownLengthEndsTheStream",
		"END_STREAM is on the last DATA of a body of unknown length", quiet,
		func(l *lab) {
			sends(hyper.Request{Method: "POST", Body: io.MultiReader(strings.NewReader("hel"),
				strings.NewReader("lo"))}, 0,
				":method: POST", ":scheme: http", ":authority: own.example", ":path: /")(l)
			l.WantBody("the body", 1, []byte("hello"))
		}, answered},
	{"9113 §8.1", "TrailersEndTheStream", "trailers are HEADERS with END_STREAM behind the body", quiet,
		func(l *lab) {
			sends(hyper.Request{Method: "POST", Body: strings.NewReader("hello"),
				Trailer: hyper.Header{{Name: "X-Sum", Value: "1"}}}, 0,
				":method: POST", ":scheme: http", ":authority: own.example", ":path: /")(l)
			l.WantBody("the body", 1, []byte("hello"))
			if h := l.WantHeadersExactly("trailers", 1, "x-sum: 1"); !h.EndStream {
				l.t.Error("trailers without END_STREAM")
			}
		}, answered},
	{"9113 §8.1", "SendPseudoInTrailers", "trailers have no pseudo-header fields", quiet,
		refuses(hyper.Request{Trailer: hyper.Header{{Name: ":path", Value: "/"}}}, ":path"), goesOn},
	{"9113 §8.2.2", "SendConnectionInTrailers", "trailers have no connection-specific fields", quiet,
		refuses(hyper.Request{Trailer: hyper.Header{{Name: "connection", Value: "close"}}}, "connection"),
		goesOn},
	{"9110 §6.5.1", "SendLengthInTrailers", "framing has no place in trailers", quiet,
		refuses(hyper.Request{Trailer: hyper.Header{{Name: "content-length", Value: "5"}}}, "content-length"),
		goesOn},
	{"9110 §6.5.1", "SendHostInTrailers", "routing has no place in trailers", quiet,
		refuses(hyper.Request{Trailer: hyper.Header{{Name: "host", Value: "a"}}}, "host"), goesOn},
	{"9113 §8.1.1", "SendShortBody", "a body shorter than its content-length is not ended, but reset", quiet,
		func(l *lab) {
			l.caller = l.ask(l.do(&hyper.Request{Method: "PUT", ContentLength: 6,
				Body: io.MultiReader(strings.NewReader("hello"))}))
			l.WantHeaders("the request", 1, "content-length: 6")
			l.next = 3
			f, err := l.Next()
			if err == nil && f.Type == wire.Data {
				if f.Flags.Has(wire.EndStream) {
					l.t.Error("END_STREAM on a body cut short")
				}
				f, err = l.Next()
			}
			var ble *hyper.BodyLengthError
			if err != nil || f.Type != wire.RSTStream || !errors.As(l.told(l.caller), &ble) {
				l.t.Errorf("got %v, %v; told %v", f, err, l.caller.Err)
			}
		}, goesOn},
	{"9113 §8.1.1", "SendLongBody", "a body longer than its content-length is not sent so", quiet,
		func(l *lab) {
			_, err := l.conn.Do(l.t.Context(), &hyper.Request{Method: "PUT", ContentLength: 4,
				Body: strings.NewReader("hello")})
			var ble *hyper.BodyLengthError
			if !errors.As(err, &ble) {
				l.t.Errorf("told %v", err)
			}
			l.WantIdle("nothing is sent")
		}, goesOn},
	{"9110 §8.6", "LengthOfABody", "content-length is the length of the body", idle,
		sendsLength("POST", "hello", "5"), goesOn},
	{"9110 §8.6", "LengthOfNoBody",
		"a method that expects content says content-length: 0 where there is none", idle,
		sendsLength("PUT", "", "0"), goesOn},
	{"9110 §8.6", "NoLengthOfAGet",
		"a method that expects no content has no content-length where there is none", idle,
		sendsLength("GET", "", ""), goesOn},
	{"9110 §9.3.8", "TraceWithABody", "TRACE has no content", quiet,
		refuses(hyper.Request{Method: "TRACE", Body: strings.NewReader("hello")}, ":method"), goesOn},

	// §6.2, §6.10, §5.3: frames of requests.
	{"9113 §6.10", "LargeHeaderIsContinued",
		"a field section larger than the peer's frames is HEADERS and CONTINUATIONs in a row, END_STREAM " +
			"on HEADERS", idle,
		func(l *lab) {
			l.caller = l.ask(l.do(&hyper.Request{Header: hyper.Header{{Name: "x-large",
				Value: strings.Repeat("\x7e", 40000)}}}))
			h := l.WantHeaders("the request", 1)
			l.next = 3
			if len(h.Frames) < 3 || !h.Frames[0].Flags.Has(wire.EndStream) ||
				h.Frames[0].Length != wire.MinMaxFrameSize {
				l.t.Errorf("frames %v", h.Frames)
			}
			for i, f := range h.Frames[1:] {
				if f.Flags&^wire.EndHeaders != 0 || f.Flags.Has(wire.EndHeaders) != (i == len(h.Frames)-2) {
					l.t.Errorf("frame %v", f)
				}
			}
			finishWaiting(l)
		}, goesOn},
	{"9113 §5.3.2", "NoPriorityIsSent", "the deprecated priority signals are not sent", quiet,
		sends(hyper.Request{}, wire.EndStream, ":method: GET", ":scheme: http", ":authority: own.example",
			":path: /"), answered},

	// RFC 9110 §10.1.1: Expect.
	{"9110 §10.1.1", "ContinueReleasesTheBody", "100 (Continue) lets the body go", holdingBack,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 100")
			l.WantBody("the body", 1, []byte("hello"))
			finishWaiting(l)
		}, goesOn},
	{"9110 §10.1.1", "FinalErrorKeepsTheBody", "a final error in place of 100 keeps the body back",
		holdingBack,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 417", "x-state: kept")
			l.want(l.caller, 417, "")
			f, err := l.Next()
			if err != nil || f.Type != wire.RSTStream && !(f.Type == wire.Data && f.Length == 0) {
				l.t.Errorf("got %v, %v", f, err)
			}
		}, goesOn},
	{"9110 §10.1.1", "OtherInterimKeepsTheBody",
		"another interim response than 100 does not release the body", holdingBack,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 103")
			l.WantIdle("it is still held back")
			l.WriteHeaders(1, 0, ":status: 100")
			l.WantBody("the body", 1, []byte("hello"))
			finishWaiting(l)
		}, goesOn},
	{"9110 §10.1.1", "SilenceReleasesTheBody", "a client does not wait for 100 for ever",
		holdingBack.with(hyper.Config{ExpectContinueTimeout: time.Second}),
		func(l *lab) {
			l.WantBody("the body", 1, []byte("hello"))
			finishWaiting(l)
		}, goesOn},
	{"9110 §10.1.1", "ExpectWithoutContent",
		"a request without content expects no 100 (Continue): the field is not sent", quiet,
		sends(with("expect", "100-continue"), wire.EndStream, ":method: GET", ":scheme: http",
			":authority: own.example", ":path: /"), answered},
	{"9110 §10.1.1", "ExpectWithEmptyContent",
		"a request with content of no octets expects no 100 (Continue) either", quiet,
		sends(hyper.Request{Method: "PUT", Body: strings.NewReader(""),
			Header: hyper.Header{{Name: "expect", Value: "100-continue"}}}, wire.EndStream,
			":method: PUT", ":scheme: http", ":authority: own.example", ":path: /"), answered},

	// RFC 9113 §8.5, RFC 9110 §9.3.6: CONNECT.
	{"9113 §8.5", "Connect", "CONNECT has :method and :authority, and no :scheme and :path", quiet,
		func(l *lab) {
			l.stream = l.open(&hyper.Request{Method: "CONNECT", Authority: "far.example:443",
				NoDefaultFields: true})
			l.caller = l.ask(l.stream.Response)
			finishWaiting(l)
			closeWrite(l)
		}, goesOn},
	{"9113 §8.5", "ConnectOnTheWire", "CONNECT leaves the stream open: nothing ends it but its caller",
		quiet,
		func(l *lab) {
			stream, err := l.conn.Open(l.t.Context(),
				&hyper.Request{Method: "CONNECT", Authority: "far.example:443", NoDefaultFields: true})
			if err != nil {
				l.t.Fatal(err)
			}
			if h := l.WantHeadersExactly("the request", 1, ":method: CONNECT",
				":authority: far.example:443"); h.EndStream {
				l.t.Error("END_STREAM on CONNECT")
			}
			l.next, l.stream = 3, stream
			l.caller = l.ask(stream.Response)
			finishWaiting(l)
			closeWrite(l)
		}, goesOn},
	{"9113 §8.5", "ConnectWithAPath", "CONNECT with a :path is not sent", quiet,
		refuses(hyper.Request{Method: "CONNECT", Authority: "far.example:443",
			Header: hyper.Header{{Name: ":path", Value: "/"}}}, ":path"), goesOn},
	{"9113 §8.5", "ConnectWithAPathOfTheRequest", "CONNECT with a path is refused, and the path not dropped",
		quiet,
		refuses(hyper.Request{Method: "CONNECT", Authority: "far.example:443", Path: "/a"}, ":path"), goesOn},
	{"9113 §8.5", "ConnectWithASchemeOfTheRequest",
		"CONNECT with a scheme is refused, and the scheme not dropped", quiet,
		refuses(hyper.Request{Method: "CONNECT", Authority: "far.example:443", Scheme: "https"}, ":scheme"),
		goesOn},
	{"9110 §9.3.6", "ConnectWithoutAPort", "CONNECT names a port: it has no default", quiet,
		refuses(hyper.Request{Method: "CONNECT", Authority: "far.example"}, ":authority"), goesOn},

	// RFC 8441 §4, §5.
	{"8441 §4", "ExtendedConnect", "an extended CONNECT has :protocol, :scheme and :path besides",
		tunnelling,
		func(l *lab) {
			stream, err := l.conn.Open(l.t.Context(),
				&hyper.Request{Method: "CONNECT", Protocol: "websocket", Path: "/chat",
					NoDefaultFields: true})
			if err != nil {
				l.t.Fatal(err)
			}
			l.WantHeadersExactly("the request", 1, ":method: CONNECT", ":scheme: http",
				":authority: own.example", ":path: /chat", ":protocol: websocket")
			l.next, l.stream = 3, stream
			l.caller = l.ask(stream.Response)
			finishWaiting(l)
			closeWrite(l)
		}, goesOn},
	{"8441 §3", "ExtendedConnectWithoutTheSetting",
		":protocol is not sent to a peer that did not say ENABLE_CONNECT_PROTOCOL=1", quiet,
		refuses(hyper.Request{Method: "CONNECT", Protocol: "websocket"}, ":protocol"), goesOn},
	{"8441 §3", "ExtendedConnectWithTheSettingOfZero",
		":protocol is not sent to a peer that said ENABLE_CONNECT_PROTOCOL=0",
		quiet.then(set(setting(wire.SettingEnableConnectProtocol, 0))),
		refuses(hyper.Request{Method: "CONNECT", Protocol: "websocket"}, ":protocol"), goesOn},
	{"8441 §3", "ExtendedConnectWaitsForSettings",
		":protocol is not sent before the peer's SETTINGS allow it", &moment{reach: nothing},
		func(l *lab) {
			l.Ignore(wire.WindowUpdate)
			l.caller = l.ask(l.do(&hyper.Request{Method: "CONNECT", Protocol: "websocket"}))
			l.WantPreface("the client begins")
			l.WantIdle("and sends no more")
			set(setting(wire.SettingEnableConnectProtocol, 1))(l)
			l.WriteSettingsAck()
			l.WantHeaders("now it does", 1, ":protocol: websocket")
			l.next = 3
			synctest.Wait()
			l.answer(1, "hello")
			<-l.caller.Done
		}, nil},
	{"8441 §4", "ProtocolOfAnotherMethod", ":protocol is CONNECT's alone", tunnelling,
		refuses(hyper.Request{Method: "GET", Protocol: "websocket"}, ":protocol"), goesOn},
})

// sendsLength returns a peer that lets the client send a body, and requires this content-length. ""
// is none.
func sendsLength(method, body, want string) func(*lab) {
	return func(l *lab) {
		l.t.Helper()
		req := &hyper.Request{Method: method}
		if body != "" {
			req.Body = strings.NewReader(body)
		}
		l.caller = l.ask(func(ctx context.Context) (*hyper.Response, error) { return l.conn.Do(ctx, req) })
		h := l.WantHeaders("the request", 1)
		l.next = 3
		if got := h.Get("content-length"); got != want {
			l.t.Errorf("content-length %q, want %q", got, want)
		}
		if body != "" {
			l.WantBody("the body", 1, []byte(body))
		}
		finishWaiting(l)
	}
}
