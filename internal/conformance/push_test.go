package conformance

import (
	"strings"
	"testing/synctest"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// refusable is a request that waits, for rows whose promise of stream 2 is refused. The promise
// never reaches a caller.
var refusable = &moment{
	cfg: pushing,
	reach: func(l *lab) {
		reachWaiting(l)
		l.parent, l.caller = l.caller, nil
	},
}

// badPromise promises stream 2 on stream 1, with these fields.
func badPromise(l *lab, fields []string, more ...hpack.HeaderField) {
	block := l.EncodeBlock(fields...)
	for _, f := range more {
		l.Encoder().WriteField(f)
	}
	block = append(block, l.EncodeBlock("x-state: kept")...)
	l.frame(wire.PushPromise, wire.EndHeaders, 1, "\x00\x00\x00\x02"+string(block))
	l.target, l.lastPush = 2, 2
}

// pushed is a push that has ended.
var pushed = &moment{cfg: pushing, reach: all(reachPromised, finishWaiting), finish: finishParent}

// pushRows are about server push.
var pushRows = concat([]row{
	// RFC 9113 §6.6, §8.4: promises that a server must not make.
	{"9113 §6.6", "PushThoughSwitchedOff", "a promise though ENABLE_PUSH is 0 is a connection error",
		waiting,
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.6", "PushThoughSwitchedOffInABody",
		"a promise though ENABLE_PUSH is 0 is a connection error, between DATA too", inBody,
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.6", "PushThoughSwitchedOffOnAResetStream",
		"a promise though ENABLE_PUSH is 0 is a connection error, on a stream that we reset too", weReset,
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.6", "PushOnStreamZero", "PUSH_PROMISE on stream 0 is a connection error", pushable,
		func(l *lab) { promise(l, 0, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.6", "PushOnAPush", "PUSH_PROMISE on a pushed stream is a connection error", pushInBody,
		func(l *lab) { promise(l, 2, 4) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.6", "PushOnHalfClosed",
		"PUSH_PROMISE on a stream that is neither open nor half-closed (local) is a connection error: " +
			"half-closed (remote)", halfClosed.with(pushing),
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.6", "PaddingBeyondAPromise", "padding longer than PUSH_PROMISE is a connection error",
		pushable,
		frame(wire.PushPromise, wire.EndHeaders|wire.Padded, 1, "\x02\x00\x00\x00\x02\x82"),
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "PromiseOfAnOddStream", "a promise of an odd stream is a connection error", pushable,
		func(l *lab) { promise(l, 1, 3) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "PromiseOfItsOwnStream", "a promise of the stream it stands on is a connection error",
		pushable, func(l *lab) { promise(l, 1, 1) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "PromiseOfStreamZero", "a promise of stream 0 is a connection error", pushable,
		func(l *lab) { promise(l, 1, 0) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "PromiseOfThePromised", "a second promise of a stream is a connection error", promised,
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "PromiseOfTheRefused",
		"a second promise of a stream is a connection error, of one that we refused too", pushRefused,
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "PromiseOfThePushed",
		"a second promise of a stream is a connection error, of one that is closed too", pushed,
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "PromiseBelowALaterOne",
		"a promise of a stream below one that was promised is a connection error", pushable,
		func(l *lab) {
			promise(l, 1, 4)
			promise(l, 1, 2)
			l.lastPush = 4
		}, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1.1", "HeadersBelowALaterPromise",
		"a promise closes the idle streams below it: HEADERS there are on a closed stream, and discarded",
		pushable,
		func(l *lab) {
			promise(l, 1, 4)
			l.WriteHeaders(2, 0, ":status: 200", "x-state: kept")
			finishWaiting(l)
		}, goesOn},

	// Valid promises.
	{"9113 §8.4", "PromisedResponse", "a promised response is the promise's", promised, nil, accepted},
	{"9113 §8.4", "PromiseInABody", "a promise may come between DATA of its parent", inBody.with(pushing),
		func(l *lab) { promise(l, 1, 2) }, accepted},
	{"9113 §8.4", "PromiseWhileUploading", "a promise may come while the request is being sent",
		uploading.with(pushing), func(l *lab) { promise(l, 1, 2) }, accepted},
	{"9113 §8.4", "PromiseThatIsNeverKept", "a promised stream may stay reserved", pushable,
		func(l *lab) {
			promise(l, 1, 2)
			promise(l, 1, 100)
		}, accepted},
	{"9113 §6.6", "PaddedPromise", "padding of PUSH_PROMISE is stripped", pushable,
		func(l *lab) {
			l.frame(wire.PushPromise, wire.EndHeaders|wire.Padded, 1,
				"\x03\x00\x00\x00\x02"+string(l.EncodeBlock(promisedHeader...))+"\x00\x00\x00")
		}, accepted},
	{"9113 §6.6", "ContinuedPromise", "a promise may be continued", pushable,
		func(l *lab) {
			b := string(l.EncodeBlock(append(promisedHeader, "x-state: kept")...))
			l.frame(wire.PushPromise, 0, 1, "\x00\x00\x00\x02"+b[:3])
			l.frame(wire.Continuation, wire.EndHeaders, 1, b[3:])
		}, accepted},
	{"9113 §6.6", "ReservedBitOfAPromise", "the reserved bit of the promised stream is ignored", pushable,
		func(l *lab) {
			l.frame(wire.PushPromise, wire.EndHeaders, 1,
				"\x80\x00\x00\x02"+string(l.EncodeBlock(promisedHeader...)))
		}, accepted},
	{"9113 §8.4.1", "PromiseOfHead", "HEAD is safe and cacheable; the response to it has no content",
		pushable,
		func(l *lab) {
			l.WritePushPromise(1, 2, ":method: HEAD", ":scheme: http", ":authority: own.example", ":path: /")
			l.WriteHeaders(2, wire.EndStream, ":status: 200", "content-length: 5")
		}, accepted},
	{"9113 §8.2.2", "TETrailersInAPromise", "te: trailers is legal in a request, a promised one too",
		pushable,
		func(l *lab) { l.WritePushPromise(1, 2, append(promisedHeader, "te: trailers")...) }, accepted},
	{"9113 §5.1.2", "PromiseBeyondTheLimit",
		"a promise beyond our MAX_CONCURRENT_STREAMS is a stream error, PROTOCOL_ERROR or REFUSED_STREAM; " +
			"hyper's is REFUSED_STREAM",
		refusable.with(hyper.Config{Push: &hyper.PushPolicy{Max: 1, Accept: nil}, Authority: "own.example",
			WindowManager: still}),
		func(l *lab) {
			promise(l, 1, 2)
			promise(l, 1, 4)
			l.WantRSTStream("one is enough", 4, wire.RefusedStream)
			l.answer(1, "parent")
			l.want(l.parent, 200, "parent")
		}, goesOn},
	{"9113 §8.4.2", "RefusedPushIsReset",
		"a client that wants no push says so by RST_STREAM with CANCEL or REFUSED_STREAM", pushRefused, nil,
		accepted},
	{"9113 §8.4.2", "ResponseOfARefusedPush",
		"what comes on a push that we refused is discarded, the block decoded", pushRefused,
		all(headers(0, ":status: 200", "x-late: 1"), frame(wire.Data, wire.EndStream, 2, "late")), accepted},
	{"9113 §8.4.2", "ResetOfARefusedPush", "RST_STREAM on a push that we refused is ignored", pushRefused,
		frame(wire.RSTStream, 0, 2, "\x00\x00\x00\x08"), accepted},
	{"9113 §8.4.2", "CancelledPush", "a push that its caller cancels is reset, and goes no further",
		pushInBody,
		func(l *lab) {
			l.push.Cancel()
			l.WantRSTStream("cancelled", 2, wire.Cancel)
			if l.told(l.caller) == nil {
				l.t.Error("told nothing")
			}
			l.WriteData(2, wire.EndStream, []byte("late"))
			finishParent(l)
		}, goesOn},
	{"9113 §5.1", "PushOutlivesItsParent", "the push is a stream of its own: its parent may end before it",
		pushInBody,
		func(l *lab) {
			finishParent(l)
			finishBody(l)
		}, goesOn},
	{"9113 §5.1", "PushSurvivesItsParentsReset", "the peer's reset of the parent leaves the push",
		pushInBody,
		func(l *lab) {
			l.WriteRSTStream(1, wire.InternalError)
			l.wantReset(l.told(l.parent), hyper.ErrCodeInternal)
			finishBody(l)
		}, goesOn},

	// The states of a pushed stream.
	{"9113 §5.1", "DataOnAClosedPush",
		"closed: DATA behind a push's END_STREAM may be a connection error or discarded; hyper discards it",
		pushed,
		frame(wire.Data, 0, 2, "more"), accepted},
	{"9113 §5.1", "HeadersOnAClosedPush",
		"closed: HEADERS behind a push's END_STREAM may be a connection error or discarded; hyper " +
			"discards them", pushed,
		headers(0, ":status: 200"), accepted},
	{"9113 §5.1", "WindowUpdateOnAPush", "half-closed (local): WINDOW_UPDATE on a push is taken", pushInBody,
		frame(wire.WindowUpdate, 0, 2, "\x00\x00\x00\x01"), accepted},
	{"9113 §6.9", "WindowUpdateOfZeroOnAPush", "WINDOW_UPDATE of 0 on a push is a stream error", pushInBody,
		frame(wire.WindowUpdate, 0, 2, "\x00\x00\x00\x00"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §8.1", "TrailersOfAPushWithoutEndStream",
		"a second field section of a push without END_STREAM is malformed", pushInBody,
		headers(0, "x-trailer: 1"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §6.4", "ResetOfAPushInItsBody", "RST_STREAM in a pushed body is no end of it", pushInBody,
		func(l *lab) {
			l.WriteRSTStream(2, wire.InternalError)
			l.wantReset(l.told(l.caller), hyper.ErrCodeInternal)
			finishParent(l)
		}, goesOn},
	{"9113 §8.4", "ClientSendsNothingOnAPush",
		"a pushed stream is half-closed for us from its beginning: nothing but WINDOW_UPDATE, PRIORITY " +
			"and RST_STREAM is sent there", promised,
		func(l *lab) {
			l.WriteHeaders(2, 0, ":status: 200", "x-state: kept")
			resp, err := l.push.Response(l.t.Context())
			if err != nil {
				l.t.Fatal(err)
			}
			if _, err := resp.Stream().Write([]byte("x")); err == nil {
				l.t.Error("DATA on a push")
			}
			synctest.Wait()
			l.WantIdle("and nothing is sent")
			l.WriteData(2, wire.EndStream, []byte("hello"))
			l.want(l.caller, 200, "hello")
			finishParent(l)
		}, goesOn},
}, badPromiseRows())

// badPromiseRows returns rows for promises of requests that are malformed (RFC 9113 §8.3.1), or for
// which the peer is not authoritative (§8.4, §10.1). Each ends only the promised stream.
func badPromiseRows() (rows []row) {
	without := func(name string) (fields []string) {
		for _, f := range promisedHeader {
			if !strings.HasPrefix(f, name+":") {
				fields = append(fields, f)
			}
		}
		return fields
	}
	with := func(name, value string) []string { return append(without(name), name+": "+value) }
	for _, c := range []struct {
		section, name, rule string
		fields              []string
	}{
		{"9113 §8.3.1", "PromiseWithoutMethod", "a promise without :method is malformed",
			without(":method")},
		{"9113 §8.3.1", "PromiseWithoutScheme", "a promise without :scheme is malformed",
			without(":scheme")},
		{"9113 §8.3.1", "PromiseWithoutPath", "a promise without :path is malformed", without(":path")},
		{"9113 §8.4", "PromiseWithoutAuthority",
			"a promise without :authority is for no host that the peer speaks for", without(":authority")},
		{"9113 §8.3.1", "PromiseWithAnEmptyPath", "a promise with an empty :path is malformed",
			with(":path", "")},
		{"9113 §8.3.1", "PromiseWithARelativePath",
			"a promise of a path that does not begin with / is malformed", with(":path", "pushed")},
		{"9113 §8.3.1", "PromiseWithTwoMethods", "a promise with two :method is malformed",
			append([]string{":method: GET"}, promisedHeader...)},
		{"9113 §8.3.1", "PromiseWithTwoPaths", "a promise with two :path is malformed",
			append([]string{":path: /a"}, promisedHeader...)},
		{"9113 §8.3.1", "PromiseWithUserinfo", "a promise with userinfo in :authority is malformed",
			with(":authority", "me@own.example")},
		{"9113 §8.3", "PromiseWithAFieldFirst",
			"a pseudo-header field behind a regular one makes a promise malformed",
			append([]string{"x-first: 1"}, promisedHeader...)},
		{"9113 §8.2.2", "PromiseWithTE", "te other than trailers makes a promised request malformed",
			append(promisedHeader[:4:4], "te: gzip")},
		{"9113 §8.4", "PromiseOfPost",
			"a promise of a method that is not safe is refused with PROTOCOL_ERROR", with(":method", "POST")},
		{"9113 §8.4", "PromiseOfOptions",
			"a promise of a method that is not cacheable is refused with PROTOCOL_ERROR",
			with(":method", "OPTIONS")},
		{"9113 §8.4", "PromiseOfConnect", "a promise of CONNECT is refused with PROTOCOL_ERROR",
			[]string{":method: CONNECT", ":authority: own.example"}},
		{"9113 §8.4", "PromiseOfContent",
			"a promise of a request with content is refused with PROTOCOL_ERROR",
			append(promisedHeader[:4:4], "content-length: 5")},
		{"9113 §8.4", "PromiseForAnother",
			"a promise for an authority that the peer does not speak for is refused with PROTOCOL_ERROR",
			with(":authority", "other.example")},
		{"9113 §8.4", "PromiseForAnotherPort", "a promise for another port is refused with PROTOCOL_ERROR",
			with(":authority", "own.example:8080")},
		{"9113 §8.4", "PromiseForAnotherScheme",
			"a promise for another scheme is refused with PROTOCOL_ERROR", with(":scheme", "https")},
		{"9113 §8.3.1", "PromiseWithAnotherHost",
			"a promise whose host differs from its :authority is refused with PROTOCOL_ERROR",
			append(promisedHeader[:4:4], "host: other.example")},
	} {
		rows = append(rows, row{c.section, c.name, c.rule, refusable,
			func(l *lab) { badPromise(l, c.fields) }, endsStream(hyper.ErrCodeProtocol)})
	}
	return rows
}
