package conformance

import (
	"fmt"
	"strings"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// promisedHeader is the field section of a valid promise. Rows with invalid promises replace fields
// or add some.
var promisedHeader = []string{":method: GET", ":scheme: http", ":authority: own.example", ":path: /pushed"}

// fieldRows are about field sections and the messages that they are part of.
var fieldRows = concat(badFieldRows(), badResponseRows(), []row{
	// RFC 9113 §8.1: the order of a message.
	{"9113 §8.1", "DataBeforeTheHeader", "DATA before the response's header is malformed", waiting,
		frame(wire.Data, 0, 1, "hello"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "EndBeforeTheHeader", "END_STREAM without a response is malformed", waiting,
		frame(wire.Data, wire.EndStream, 1, ""), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "DataBehindAnInterim", "DATA behind an interim response is malformed", afterInterim,
		frame(wire.Data, 0, 1, "hello"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "EndBehindAnInterim", "END_STREAM behind an interim response is malformed", afterInterim,
		frame(wire.Data, wire.EndStream, 1, ""), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "InterimWithEndStream", "END_STREAM on an interim response is malformed", waiting,
		headers(wire.EndStream, ":status: 103"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "ContinueWithEndStream", "END_STREAM on 100 (Continue) is malformed", uploading,
		headers(wire.EndStream, ":status: 100"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "TrailersWithoutEndStream", "a second field section without END_STREAM is malformed",
		inBody, headers(0, "x-trailer: 1"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "SecondResponse", "a second final response is malformed", inBody,
		headers(0, ":status: 200"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "InterimBehindTheFinal", "an interim response behind the final one is malformed", inBody,
		headers(0, ":status: 103"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "InterimBehindTheFinalAtTheEnd", "a status in trailers is malformed", inBody,
		headers(wire.EndStream, ":status: 103"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "DataBeforeTheHeaderOfAnUpload",
		"DATA before the response's header is malformed, while the request is being sent too", uploading,
		frame(wire.Data, 0, 1, "hello"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "ResponseInOneFrame", "HEADERS with END_STREAM are a whole response", waiting,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 200", "x-state: kept")
			l.want(l.caller, 200, "")
		}, goesOn},
	{"9113 §8.1", "TrailersEndTheBody", "trailers end the body and are handed out", inBody,
		func(l *lab) {
			l.WriteTrailers(1, "x-trailer: 1", "x-trailer: 2")
			l.want(l.caller, 200, "hel")
			got := l.caller.Value.resp.Trailer()
			if len(got) != 2 || got[0].Value != "1" || got[1].Value != "2" {
				l.t.Errorf("trailer %v", got)
			}
		}, goesOn},
	{"9113 §8.1", "EmptyTrailers", "trailers may be empty", inBody,
		func(l *lab) {
			l.frame(wire.Headers, wire.EndHeaders|wire.EndStream, 1, "")
			l.want(l.caller, 200, "hel")
		}, goesOn},
	{"9113 §8.1", "TrailersWithoutABody", "trailers may follow the header at once", waiting,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 200", "x-state: kept")
			l.WriteTrailers(1, "x-trailer: 1")
			l.want(l.caller, 200, "")
		}, goesOn},
	{"9113 §8.1.1", "MalformedIsNeverASuccess", "the caller of a malformed response gets no response at all",
		waiting,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 200", "x-state: kept", "Bad: name")
			if l.told(l.caller) == nil || l.caller.Value.resp != nil {
				l.t.Errorf("got %v", l.caller.Value.resp)
			}
		}, endsStream(hyper.ErrCodeProtocol)},

	// RFC 9113 §8.1.1, RFC 9110 §8.6: content-length.
	{"9113 §8.1.1", "BodyShorterThanItsLength", "a body shorter than its content-length is malformed",
		waiting,
		all(headers(0, ":status: 200", "content-length: 6"), frame(wire.Data, wire.EndStream, 1, "hello")),
		endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "BodyLongerThanItsLength", "a body longer than its content-length is malformed", waiting,
		all(headers(0, ":status: 200", "content-length: 4"), frame(wire.Data, 0, 1, "hello")),
		endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "BodyLongerThanItsLengthInItsSecondFrame",
		"a body longer than its content-length in all is malformed", waiting,
		all(headers(0, ":status: 200", "content-length: 5"), frame(wire.Data, 0, 1, "hello"),
			frame(wire.Data, wire.EndStream, 1, "!")), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "NoBodyThoughALength",
		"END_STREAM on HEADERS with a content-length above 0 is malformed",
		waiting, headers(wire.EndStream, ":status: 200", "content-length: 5"),
		endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "BodyThoughALengthOfZero", "DATA where the content-length is 0 is malformed", waiting,
		all(headers(0, ":status: 200", "content-length: 0"), frame(wire.Data, wire.EndStream, 1, "x")),
		endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "TrailersBeforeTheLength", "trailers before the content-length is reached are malformed",
		waiting,
		all(headers(0, ":status: 200", "content-length: 6"), frame(wire.Data, 0, 1, "hello"),
			headers(wire.EndStream, "x-trailer: 1")), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "PaddingIsNoContent", "padding does not count for the content-length", waiting,
		all(headers(0, ":status: 200", "content-length: 6"),
			func(l *lab) { l.WritePaddedData(1, wire.EndStream, []byte("hello"), 1) }),
		endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "PushShorterThanItsLength", "a pushed body shorter than its content-length is malformed",
		promised,
		all(headers(0, ":status: 200", "content-length: 6"), frame(wire.Data, wire.EndStream, 2, "hello")),
		endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1.1", "LengthReachedByManyFrames", "the content-length is the sum of all DATA", waiting,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 200", "x-state: kept", "content-length: 5")
			for _, b := range []byte("hello") {
				l.WriteData(1, 0, []byte{b})
			}
			l.WriteData(1, wire.EndStream, nil)
			l.want(l.caller, 200, "hello")
		}, goesOn},
	{"9110 §8.6", "LengthOfAHeadResponse",
		"the content-length of a response to HEAD is not of this response",
		head,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 200", "x-state: kept", "content-length: 5")
			l.want(l.caller, 200, "")
		}, goesOn},
	{"9110 §8.6", "LengthOf304", "the content-length of 304 is not of this response", waiting,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 304", "x-state: kept", "content-length: 5")
			l.want(l.caller, 304, "")
		}, goesOn},
	{"9110 §8.6", "LargestLength", "a content-length of 2^63-1 is a number", waiting,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 200", "x-state: kept", "content-length: 9223372036854775807")
			l.WriteRSTStream(1, wire.Cancel)
			l.wantReset(l.told(l.caller), hyper.ErrCodeCancel)
		}, goesOn},

	// RFC 9110 §6.4.1: responses without content.
	{"9110 §9.3.2", "BodyToHead", "a response to HEAD has no content: DATA is malformed", head,
		all(headers(0, ":status: 200"), frame(wire.Data, 0, 1, "hello")), endsStream(hyper.ErrCodeProtocol)},
	{"9110 §9.3.2", "BodyOfItsLengthToHead",
		"a response to HEAD has no content, of the declared length either", head,
		all(headers(0, ":status: 200", "content-length: 5"), frame(wire.Data, wire.EndStream, 1, "hello")),
		endsStream(hyper.ErrCodeProtocol)},
	{"9110 §9.3.2", "EmptyDataToHead", "an empty DATA frame may end a response to HEAD", head,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 200", "x-state: kept", "content-length: 5")
			l.WriteData(1, wire.EndStream, nil)
			l.want(l.caller, 200, "")
		}, goesOn},
	{"9110 §15.3.5", "BodyOf204", "204 (No Content) has none: DATA is malformed", waiting,
		all(headers(0, ":status: 204"), frame(wire.Data, wire.EndStream, 1, "hello")),
		endsStream(hyper.ErrCodeProtocol)},
	{"9110 §15.4.5", "BodyOf304", "304 (Not Modified) has no content: DATA is malformed", waiting,
		all(headers(0, ":status: 304"), frame(wire.Data, wire.EndStream, 1, "hello")),
		endsStream(hyper.ErrCodeProtocol)},
	{"9110 §15.3.5", "EmptyDataOf204", "an empty DATA frame may end 204", waiting,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 204", "x-state: kept")
			l.WriteData(1, wire.EndStream, nil)
			l.want(l.caller, 204, "")
		}, goesOn},

	// RFC 9110 §15: statuses.
	{"9110 §15.2", "InterimsBeforeTheFinal", "any number of interim responses comes before the final one",
		waiting,
		func(l *lab) {
			for range 5 {
				l.WriteHeaders(1, 0, ":status: 103", "link: </style.css>")
			}
			l.WriteHeaders(1, 0, ":status: 102")
		}, accepted},
	{"9110 §15.2", "UnknownInterim", "an unknown 1xx is an interim response", waiting,
		headers(0, ":status: 199"), accepted},
	{"9110 §15.2.1", "UnexpectedContinue", "100 (Continue) may come unasked, and is ignored", waiting,
		headers(0, ":status: 100"), accepted},
	{"9110 §15.2", "InterimOfAPush", "a push may have interim responses", promised,
		headers(0, ":status: 103"), accepted},
	{"9110 §15", "UnknownStatus", "an unknown status is of its class", waiting,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 299", "x-state: kept")
			l.want(l.caller, 299, "")
		}, goesOn},
	{"9110 §15", "StatusBeyond599",
		"a status of three digits beyond 599 can be processed as 5xx; hyper hands it out as it is", waiting,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 999", "x-state: kept")
			l.want(l.caller, 999, "")
		}, goesOn},
	{"9113 §8.6", "SwitchingProtocols", "101 has no place in HTTP/2: malformed", waiting,
		headers(0, ":status: 101"), endsStream(hyper.ErrCodeProtocol)},

	// RFC 9113 §8.2.1, RFC 9110 §5: what is unusual but valid.
	{"9113 §8.2.1", "ObsTextInAValue", "octets of 0x80 and above are legal in a value", waiting,
		headers(0, ":status: 103", "x-obs: \x80\xff"), accepted},
	{"9113 §8.2.1", "EmptyValue", "a value may be empty", waiting, headers(0, ":status: 103", "x-empty: "),
		accepted},
	{"9113 §8.2.1", "BlanksWithinAValue", "a value may have blanks within", waiting,
		headers(0, ":status: 103", "x-words: a b\tc"), accepted},
	{"9110 §5.5", "ControlsInAValue",
		"control characters other than NUL, CR and LF are invalid, too; hyper refuses them, as net/http does",
		waiting, headers(0, ":status: 103", "x-bell: a\x07b"), endsStream(hyper.ErrCodeProtocol)},
	{"9110 §5.1", "EveryTokenCharacterInAName",
		"a name may have any character of a token that is not upper case", waiting,
		headers(0, ":status: 103", "!#$%&'*+-.^_`|~09az: 1"), accepted},
	{"9110 §5.1", "UnknownFields", "unknown fields are handed out, in order, duplicates too", waiting,
		func(l *lab) {
			l.WriteHeaders(1, wire.EndStream, ":status: 200", "x-state: kept", "x-a: 1", "x-b: 2", "x-a: 3",
				"set-cookie: a=b", "set-cookie: c=d")
			l.want(l.caller, 200, "")
			if got := fmt.Sprint(l.caller.Value.resp.Header[1:]); got !=
				"[{x-a 1 false} {x-b 2 false} {x-a 3 false} {set-cookie a=b false} {set-cookie c=d false}]" {
				l.t.Error(got)
			}
		}, goesOn},
	{"9110 §6.5", "TrailersStayApart", "trailer fields are not merged into the header", inBody,
		func(l *lab) {
			l.WriteTrailers(1, "x-late: 1", "content-length: 99")
			l.want(l.caller, 200, "hel")
			if l.caller.Value.resp.Header.Has("x-late") || l.caller.Value.resp.ContentLength != -1 {
				l.t.Errorf("header %v", l.caller.Value.resp.Header)
			}
		}, goesOn},
	{"9113 §6.5.2", "FieldSectionAboveTheAnnouncedSize",
		"MAX_HEADER_LIST_SIZE is advice; a field section above it ends its stream, decoded all the same",
		waiting.with(hyper.Config{MaxHeaderListSize: 1000}),
		headers(0, ":status: 200", "x-large: "+strings.Repeat("x", 1000)), endsStream(hyper.ErrCodeProtocol)},

	// RFC 9110 §9.3.6, RFC 9113 §8.5: CONNECT.
	{"9110 §9.3.6", "LengthOfATunnel", "content-length in a 2xx response to CONNECT is ignored",
		tunnel.replace(func(l *lab) {
			l.Handshake()
			l.stream = l.open(&hyper.Request{Method: "CONNECT", Authority: "far.example:443"})
			l.caller = l.ask(l.stream.Response)
			l.WriteHeaders(1, 0, ":status: 200", "x-state: kept", "content-length: 1")
			l.WriteData(1, 0, []byte("hel"))
		}), nil, accepted},
	{"9113 §8.5", "TunnelCarriesData", "DATA of both sides is what the tunnel carries", tunnel,
		func(l *lab) {
			if _, err := l.stream.Write([]byte("out")); err != nil {
				l.t.Error(err)
			}
			l.WantData("as it is", 1, 0, 3)
		}, accepted},
	{"9113 §8.5", "TunnelIsReset", "RST_STREAM ends a tunnel as a TCP reset would, with an error", tunnel,
		func(l *lab) {
			l.WriteRSTStream(1, wire.ConnectError)
			l.wantReset(l.told(l.caller), hyper.ErrCodeConnect)
		}, goesOn},
})

// A place is a field section of a message. write sends a valid section with the bad fields added.
type place struct {
	name, in string
	at       *moment
	write    func(l *lab, bad ...hpack.HeaderField)
}

// places are all places. The last is a promise, the others belong to responses.
var places = []place{
	{"", "a response", waiting, func(l *lab, bad ...hpack.HeaderField) {
		rawHeaders(0, append([]hpack.HeaderField{field(":status", "200")}, bad...)...)(l)
	}},
	{"InAnInterim", "an interim response", waiting, func(l *lab, bad ...hpack.HeaderField) {
		rawHeaders(0, append([]hpack.HeaderField{field(":status", "103")}, bad...)...)(l)
	}},
	{"InTrailers", "trailers", inBody, func(l *lab,
		bad ...hpack.HeaderField) {
		rawHeaders(wire.EndStream, bad...)(l)
	}},
	{"InAPushedResponse", "a pushed response", promised, func(l *lab, bad ...hpack.HeaderField) {
		rawHeaders(wire.EndStream, append([]hpack.HeaderField{field(":status", "200")}, bad...)...)(l)
	}},
	{"InAPromise", "a promise", refusable, func(l *lab,
		bad ...hpack.HeaderField) {
		badPromise(l, promisedHeader, bad...)
	}},
}

// badFieldRows returns a row for each field that RFC 9113 §8.2 forbids, in each place. Such a field
// makes the message malformed.
func badFieldRows() (rows []row) {
	all, ofResponses := len(places), len(places)-1
	for _, c := range []struct {
		section, name, rule string
		bad                 hpack.HeaderField
		places              int
	}{
		{"9113 §8.2", "UpperCaseName", "a field name in upper case", field("X-Upper", "1"), all},
		{"9113 §8.2.1", "SpaceInAName", "a blank in a field name", field("x space", "1"), 1},
		{"9113 §8.2.1", "NulInAName", "NUL in a field name", field("x\x00", "1"), 1},
		{"9113 §8.2.1", "NewlineInAName", "LF in a field name", field("x\n", "1"), 1},
		{"9113 §8.2.1", "DelInAName", "0x7f in a field name", field("x\x7f", "1"), 1},
		{"9113 §8.2.1", "ObsTextInAName", "0x80 in a field name", field("x\x80", "1"), 1},
		{"9113 §8.2.1", "ColonInAName", "a colon within a field name", field("x:y", "1"), 2},
		{"9110 §5.1", "NoTokenInAName", "a field name that is no token", field("x(y)", "1"), 1},
		{"9110 §5.1", "EmptyName", "a field name of no length", field("", "1"), 3},
		{"9113 §8.2.1", "NulInAValue", "NUL in a value", field("x-bad", "a\x00b"), 1},
		{"9113 §8.2.1", "NewlineInAValue", "LF in a value", field("x-bad", "a\nb"), all},
		{"9113 §8.2.1", "ReturnInAValue", "CR in a value", field("x-bad", "a\rb"), 3},
		{"9113 §8.2.1", "InjectionInAValue", "CR LF and a field in a value",
			field("x-bad", "a\r\nset-cookie: b"), 1},
		{"9113 §8.2.1", "LeadingSpace", "a blank before a value", field("x-bad", " a"), 1},
		{"9113 §8.2.1", "TrailingSpace", "a blank behind a value", field("x-bad", "a "), 1},
		{"9113 §8.2.1", "LeadingTab", "a tab before a value", field("x-bad", "\ta"), 1},
		{"9113 §8.2.1", "TrailingTab", "a tab behind a value", field("x-bad", "a\t"), 1},
		{"9113 §8.2.1", "BlankValue", "a value of one blank", field("x-bad", " "), 1},
		{"9113 §8.2.2", "Connection", "connection", field("connection", "keep-alive"), all},
		{"9113 §8.2.2", "ConnectionClose", "connection: close", field("connection", "close"), 1},
		{"9113 §8.2.2", "KeepAlive", "keep-alive", field("keep-alive", "timeout=5"), 1},
		{"9113 §8.2.2", "ProxyConnection", "proxy-connection", field("proxy-connection", "keep-alive"), 1},
		{"9113 §8.2.2", "TransferEncoding", "transfer-encoding", field("transfer-encoding", "chunked"), 3},
		{"9113 §8.2.2", "Upgrade", "upgrade", field("upgrade", "h2c"), 1},
		{"9113 §8.2.2", "TE", "te, which is legal in a request alone,", field("te", "trailers"),
			ofResponses},
		{"9113 §8.2.2", "TEOfACoding", "te with a coding", field("te", "gzip"), all},
		{"9113 §8.3", "PseudoOfARequest",
			"a request's pseudo-header field in a response or a section that is not a request's beginning",
			field(":path", "/"), all},
		{"9113 §8.3", "UnknownPseudo", "an unknown pseudo-header field", field(":future", "1"), 3},
		{"9113 §8.3.2", "StatusAgain", "a :status that is not the one at a response's beginning",
			field(":status", "200"), all},
	} {
		for _, p := range places[:c.places] {
			rows = append(rows, row{c.section, c.name + p.name,
				fmt.Sprintf("%s is malformed, in %s", c.rule, p.in), p.at,
				func(l *lab) { p.write(l, c.bad) }, endsStream(hyper.ErrCodeProtocol)})
		}
	}
	return rows
}

// badResponseRows returns rows for field sections that are not valid responses.
func badResponseRows() (rows []row) {
	for _, c := range []struct {
		section, name, rule string
		fields              []string
	}{
		{"9113 §8.3.2", "NoStatus", "a response without :status", []string{"server: x"}},
		{"9113 §8.3.2", "StatusEmpty", "an empty :status", []string{":status: "}},
		{"9113 §8.3.2", "StatusOfTwoDigits", "a :status of two digits", []string{":status: 20"}},
		{"9113 §8.3.2", "StatusOfFourDigits", "a :status of four digits", []string{":status: 2000"}},
		{"9113 §8.3.2", "StatusWithAReason", "a :status with a reason phrase", []string{":status: 200 OK"}},
		{"9113 §8.3.2", "StatusOfLetters", "a :status that is no number", []string{":status: abc"}},
		{"9113 §8.3.2", "StatusWithASign", "a :status with a sign", []string{":status: +20"}},
		{"9113 §8.3.2", "StatusBelow100", "a :status below 100", []string{":status: 099"}},
		{"9113 §8.3.2", "StatusOfZero", "a :status of 000", []string{":status: 000"}},
		{"9113 §8.3.2", "StatusTwice", "two :status", []string{":status: 200", ":status: 404"}},
		{"9113 §8.3", "StatusBehindAField", "a pseudo-header field behind a regular one",
			[]string{"server: x", ":status: 200"}},
		{"9113 §8.3", "MethodBeforeStatus", "a request's pseudo-header field before :status",
			[]string{":method: GET", ":status: 200"}},
		{"9113 §8.3", "UpperCaseStatus", "a pseudo-header field in upper case", []string{":Status: 200"}},
		{"9110 §8.6", "LengthOfLetters", "a content-length that is no number",
			[]string{":status: 200", "content-length: five"}},
		{"9110 §8.6", "LengthEmpty", "an empty content-length",
			[]string{":status: 200", "content-length: "}},
		{"9110 §8.6", "LengthNegative", "a negative content-length",
			[]string{":status: 200", "content-length: -5"}},
		{"9110 §8.6", "LengthWithASign", "a content-length with a sign",
			[]string{":status: 200", "content-length: +5"}},
		{"9110 §8.6", "LengthInHex", "a content-length in hex",
			[]string{":status: 200", "content-length: 0x5"}},
		{"9110 §8.6", "LengthTooLarge", "a content-length of 2^64",
			[]string{":status: 200", "content-length: 18446744073709551616"}},
		{"9110 §8.6", "LengthsThatDiffer", "two content-lengths that differ",
			[]string{":status: 200", "content-length: 5", "content-length: 6"}},
		{"9110 §8.6", "LengthListThatDiffers", "a content-length that is a list of different ones",
			[]string{":status: 200", "content-length: 5, 6"}},
		{"9110 §8.6", "LengthTwice",
			"two content-lengths of the same value (a recipient may take them as one; hyper does not)",
			[]string{":status: 200", "content-length: 5", "content-length: 5"}},
		{"9110 §8.6", "LengthList",
			"a content-length that is a list of the same value (a recipient may take it as one; hyper " +
				"does not)", []string{":status: 200", "content-length: 5, 5"}},
	} {
		rows = append(rows, row{c.section, c.name, c.rule + " is malformed", waiting, headers(0, c.fields...),
			endsStream(hyper.ErrCodeProtocol)})
	}
	return append(rows,
		row{"9113 §8.3.2", "EmptyBlock", "a response without any field is malformed", waiting, block(0, ""),
			endsStream(hyper.ErrCodeProtocol)},
		row{"9113 §8.3.2", "EmptyBlockAtTheEnd",
			"HEADERS with END_STREAM and nothing in them are no response", waiting, block(wire.EndStream, ""),
			endsStream(hyper.ErrCodeProtocol)},
		row{"9113 §8.2", "MalformedInAContinuation", "what is malformed is so in CONTINUATION, too", waiting,
			func(l *lab) { l.WriteHeadersSplit(1, 0, 4, ":status: 200", "x-state: kept", "X-Upper: 1") },
			endsStream(hyper.ErrCodeProtocol)},
		row{"9113 §8.2", "MalformedWhileUploading", "a malformed response ends the upload, too", uploading,
			headers(0, ":status: 200", "X-Upper: 1"), endsStream(hyper.ErrCodeProtocol)},
		row{"9113 §8.2", "MalformedBehindAnInterim",
			"a malformed response behind a good interim one is no success", afterInterim,
			headers(0, ":status: 200", "X-Upper: 1"), endsStream(hyper.ErrCodeProtocol)},
		row{"9113 §8.2", "MalformedAnswerToHead", "a malformed response to HEAD is no success", head,
			headers(wire.EndStream, ":status: 200", "X-Upper: 1"), endsStream(hyper.ErrCodeProtocol)},
		row{"9113 §8.5", "MalformedTrailersOfATunnel",
			"a field section in a tunnel that does not end it is malformed", tunnel, headers(0, "x-more: 1"),
			endsStream(hyper.ErrCodeProtocol)},
		row{"9113 §8.2", "UpperCaseNameInHuffmanCode", "upper case is malformed in any coding of the name",
			waiting,
			func(l *lab) {
				b := string(l.EncodeBlock(":status: 200", "x-state: kept"))
				name := string(hpack.AppendHuffmanString(nil, "X-UPPER"))
				l.frame(wire.Headers, wire.EndHeaders, 1,
					b+"\x00"+string([]byte{0x80 | byte(len(name))})+name+"\x011")
			}, endsStream(hyper.ErrCodeProtocol)},
	)
}
