package conformance

import (
	"errors"
	"fmt"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// cancelledInBody is a stream that its caller canceled in the middle of the body. The peer still
// sends.
var cancelledInBody = &moment{
	reach: func(l *lab) {
		l.Handshake()
		l.stream = l.open(&hyper.Request{Method: "POST"})
		writeBegin(l)
		resp, err := l.stream.Response(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		resp.Body.Close()
		l.WantRSTStream("it is not read on", 1, wire.Cancel)
	},
	finish: nothing,
}

// rejected is a stream that we reset because the peer broke a rule on it.
var rejected = &moment{
	reach: func(l *lab) {
		reachWaiting(l)
		l.WriteHeaders(1, 0, "x-state: kept")
		l.WantRSTStream("there is no :status", 1, wire.ProtocolError)
		if l.told(l.caller) == nil {
			l.t.Error("told nothing")
		}
	},
	finish: nothing,
}

// answerPing starts a PING and lets the peer acknowledge it.
func answerPing(l *lab) {
	done := make(chan error)
	go func() {
		_, err := l.conn.Ping(l.t.Context())
		done <- err
	}()
	l.WritePing(wire.Ack, l.WantPing("asked for", 0))
	if err := <-done; err != nil {
		l.t.Fatal(err)
	}
}

// streamRows are about the states of streams and about errors.
var streamRows = concat([]row{
	// RFC 9113 §5.1: idle.
	{"9113 §5.1", "DataOnIdle", "idle: DATA is a connection error", waiting, frame(wire.Data, 0, 3, "hello"),
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "DataOnIdleOfTheServer", "idle: DATA is a connection error, on an even stream too",
		waiting,
		frame(wire.Data, wire.EndStream, 2, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "DataOnIdleInABody", "idle: DATA is a connection error, in the middle of another's body",
		inBody, frame(wire.Data, 0, 5, "lo"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "HeadersOnIdle",
		"idle: HEADERS are a connection error, the stream is the client's to open",
		waiting,
		func(l *lab) { l.WriteHeaders(3, 0, ":status: 200") }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "HeadersOnIdleOfTheServer",
		"idle: HEADERS on an even stream that was not promised are a connection error", pushable,
		func(l *lab) { l.WriteHeaders(2, 0, ":status: 200") }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "HeadersOnIdleOfAnIdleConnection",
		"idle: HEADERS are a connection error, before any request too", idle,
		func(l *lab) { l.WriteHeaders(1, wire.EndStream, ":status: 200") }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "ResetOnIdle", "idle: RST_STREAM is a connection error", waiting,
		frame(wire.RSTStream, 0, 3, "\x00\x00\x00\x08"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.4", "ResetOnIdleOfTheServer",
		"RST_STREAM on an idle stream is a connection error, on an even one too", pushable,
		frame(wire.RSTStream, 0, 2, "\x00\x00\x00\x08"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "WindowUpdateOnIdle", "idle: WINDOW_UPDATE is a connection error", waiting,
		frame(wire.WindowUpdate, 0, 3, "\x00\x00\x00\x01"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "WindowUpdateOnIdleOfTheServer",
		"idle: WINDOW_UPDATE is a connection error, on an even stream too", pushable,
		frame(wire.WindowUpdate, 0, 2, "\x00\x00\x00\x01"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "PushPromiseOnIdle", "idle: PUSH_PROMISE on it is a connection error", pushable,
		func(l *lab) { promise(l, 3, 2) }, endsConn(hyper.ErrCodeProtocol)},

	// Reserved (remote).
	{"9113 §5.1", "DataOnReserved", "reserved (remote): DATA is a connection error", promised,
		frame(wire.Data, 0, 2, "hello"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "EmptyDataOnReserved",
		"reserved (remote): DATA with END_STREAM is a connection error, and no response", promised,
		frame(wire.Data, wire.EndStream, 2, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "WindowUpdateOnReserved", "reserved (remote): WINDOW_UPDATE is a connection error",
		promised,
		frame(wire.WindowUpdate, 0, 2, "\x00\x00\x00\x01"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "PushPromiseOnReserved", "reserved (remote): PUSH_PROMISE on it is a connection error",
		promised,
		func(l *lab) { promise(l, 2, 4) }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.1", "ResetOnReserved", "reserved (remote): RST_STREAM ends it", promised,
		func(l *lab) {
			l.WriteRSTStream(2, wire.Cancel)
			l.wantReset(l.told(l.caller), hyper.ErrCodeCancel)
			finishParent(l)
		}, goesOn},
	{"9113 §5.1", "HeadersOnReserved", "reserved (remote): HEADERS make it half-closed (local)", promised,
		nil, accepted},

	// Open, half-closed (local).
	{"9113 §5.1", "ResponseBeforeTheRequestHasEnded",
		"open: the response may come, and end, before our side has", uploading,
		func(l *lab) {
			finishWaiting(l)
			closeWrite(l)
		}, goesOn},
	{"9113 §5.1", "UploadBehindTheResponse", "half-closed (remote): we may still send", halfClosed,
		func(l *lab) {
			if _, err := l.stream.Write([]byte("more")); err != nil {
				l.t.Error(err)
			}
			l.WantData("more of the request", 1, 0, 4)
		}, accepted},
	{"9113 §5.1", "WindowUpdateOnHalfClosedLocal", "half-closed (local): WINDOW_UPDATE is taken", inBody,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x01\x00"), accepted},

	// Half-closed (remote).
	{"9113 §5.1", "DataOnHalfClosed", "half-closed (remote): DATA is a stream error", halfClosed,
		frame(wire.Data, 0, 1, "more"), endsStream(hyper.ErrCodeStreamClosed)},
	{"9113 §5.1", "EmptyDataOnHalfClosed", "half-closed (remote): a second END_STREAM is a stream error",
		halfClosed, frame(wire.Data, wire.EndStream, 1, ""), endsStream(hyper.ErrCodeStreamClosed)},
	{"9113 §5.1", "PaddedDataOnHalfClosed", "half-closed (remote): DATA of padding alone is a stream error",
		halfClosed,
		func(l *lab) { l.WritePaddedData(1, 0, nil, 9) }, endsStream(hyper.ErrCodeStreamClosed)},
	{"9113 §5.1", "HeadersOnHalfClosed", "half-closed (remote): HEADERS are a stream error", halfClosed,
		headers(0, ":status: 200"), endsStream(hyper.ErrCodeStreamClosed)},
	{"9113 §5.1", "TrailersOnHalfClosed", "half-closed (remote): trailers are a stream error", halfClosed,
		headers(wire.EndStream, "x-trailer: 1"), endsStream(hyper.ErrCodeStreamClosed)},
	{"9113 §5.1", "ContinuedHeadersOnHalfClosed",
		"half-closed (remote): HEADERS with CONTINUATION are a stream error, their block decoded", halfClosed,
		func(l *lab) { l.WriteHeadersSplit(1, 0, 2, ":status: 200", "x-state: kept", "x-new: 1") },
		endsStream(hyper.ErrCodeStreamClosed)},
	{"9113 §5.1", "WindowUpdateOnHalfClosed", "half-closed (remote): WINDOW_UPDATE is taken", halfClosed,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x01\x00"), accepted},
	{"9113 §5.1", "ResetOnHalfClosed", "half-closed (remote): RST_STREAM ends our side", halfClosed,
		func(l *lab) {
			l.WriteRSTStream(1, wire.Cancel)
			synctest.Wait()
			_, err := l.stream.Write([]byte("more"))
			l.wantReset(err, hyper.ErrCodeCancel)
		}, goesOn},
	{"9113 §8.1", "NoErrorBehindAWholeResponse",
		"RST_STREAM with NO_ERROR behind a whole response stops the upload and leaves the response good",
		uploading,
		func(l *lab) {
			l.answer(1, "enough")
			l.WriteRSTStream(1, wire.NoError)
			l.want(l.caller, 200, "enough")
			synctest.Wait() // until the reset has arrived
			_, err := l.stream.Write([]byte("more"))
			l.wantReset(err, hyper.ErrCodeNo)
		}, goesOn},
	{"9113 §8.1", "ResetBehindAWholeResponse",
		"a whole response is not discarded because of a later RST_STREAM", uploading,
		func(l *lab) {
			l.Batch(func() {
				l.answer(1, "enough")
				l.WriteRSTStream(1, wire.Cancel)
			})
			l.want(l.caller, 200, "enough")
		}, goesOn},

	// Closed, by END_STREAM of both sides.
	{"9113 §5.1", "DataOnClosed", "closed: DATA may be a connection error or discarded; hyper discards it",
		closed, frame(wire.Data, 0, 1, "more"), accepted},
	{"9113 §5.1", "HeadersOnClosed",
		"closed: HEADERS may be a connection error or discarded; hyper discards them", closed,
		headers(0, ":status: 200"), accepted},
	{"9113 §5.1", "TrailersOnClosed",
		"closed: HEADERS behind trailers may be a connection error or discarded; hyper discards them",
		waiting.then(func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 200")
			l.WriteTrailers(1, "x-trailer: 1")
			l.want(l.caller, 200, "")
			l.at = closed
		}), headers(wire.EndStream, "x-trailer: 2"), accepted},
	{"9113 §5.1", "WindowUpdateOnClosed", "closed: WINDOW_UPDATE is ignored", closed,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x00\x01"), accepted},
	{"9113 §5.1", "ResetOnClosed", "closed: RST_STREAM is ignored", closed,
		frame(wire.RSTStream, 0, 1, "\x00\x00\x00\x08"), accepted},
	{"9113 §6.6", "PushPromiseOnClosed",
		"PUSH_PROMISE on a stream that is neither open nor half-closed (local) is a connection error: closed",
		closed.with(pushing),
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},

	// Closed, by the peer's RST_STREAM.
	{"9113 §5.1", "DataBehindThePeersReset",
		"closed: DATA behind the peer's own RST_STREAM may be a connection error or discarded; hyper " +
			"discards it", peerReset,
		frame(wire.Data, 0, 1, "more"), accepted},
	{"9113 §5.1", "HeadersBehindThePeersReset",
		"closed: HEADERS behind the peer's own RST_STREAM may be a connection error or discarded; hyper " +
			"discards them", peerReset,
		headers(0, ":status: 200"), accepted},
	{"9113 §5.1", "ResetBehindThePeersReset", "closed: RST_STREAM twice is ignored", peerReset,
		frame(wire.RSTStream, 0, 1, "\x00\x00\x00\x08"), accepted},
	{"9113 §5.1", "WindowUpdateBehindThePeersReset",
		"closed: WINDOW_UPDATE behind the peer's RST_STREAM is ignored", peerReset,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x00\x01"), accepted},
	{"9113 §6.6", "PushPromiseBehindThePeersReset",
		"PUSH_PROMISE behind the peer's own RST_STREAM is a connection error", peerReset.with(pushing),
		func(l *lab) { promise(l, 1, 2) }, endsConn(hyper.ErrCodeProtocol)},

	// §5.1.1: identifiers.
	{"9113 §5.1.1", "StreamsAreOddAndAscend",
		"the client's streams are 1, 3, 5, … in the order in which they are sent, and none is used twice",
		idle,
		func(l *lab) {
			for range 4 {
				id := l.next
				c := l.send(&hyper.Request{}) // WantHeaders checks the identifier
				l.WriteRSTStream(id, wire.RefusedStream)
				l.told(c)
			}
		}, goesOn},
	{"9113 §5.1.1", "RefusedRequestTakesNoStream", "a request that cannot be sent uses no identifier", idle,
		func(l *lab) {
			if _, err := l.conn.Do(l.t.Context(), &hyper.Request{Method: "NO GOOD"}); err == nil {
				l.t.Error("sent")
			}
		}, goesOn},

	// §5.1.2: concurrency.
	{"9113 §5.1.2", "PeersLimitIsKept", "no more streams are open than SETTINGS_MAX_CONCURRENT_STREAMS",
		idle,
		func(l *lab) {
			set(setting(wire.SettingMaxConcurrentStreams, 1))(l)
			l.caller = l.send(&hyper.Request{})
			second := l.ask(l.get("/second"))
			l.WantIdle("the second waits")
			finishWaiting(l)
			l.WantHeaders("its turn", 3, ":path: /second")
			l.next = 5
			l.answer(3, "second")
			l.want(second, 200, "second")
		}, goesOn},
	{"9113 §5.1.2", "LimitOfZeroIsKept", "a limit of 0 lets nothing be sent, until it is raised", idle,
		func(l *lab) {
			set(setting(wire.SettingMaxConcurrentStreams, 0))(l)
			l.caller = l.ask(l.get("/"))
			l.WantIdle("it waits")
			l.WriteSettings(setting(wire.SettingMaxConcurrentStreams, 1))
			l.WantSettingsAck("acknowledged")
			l.WantHeaders("and then its turn", 1)
			l.next = 3
			finishWaiting(l)
		}, goesOn},
	{"9113 §5.1.2", "ResetStreamsCountUntilThePeerKnows",
		"a stream that we reset counts until the peer can know", idle,
		func(l *lab) {
			set(setting(wire.SettingMaxConcurrentStreams, 1))(l)
			l.open(&hyper.Request{}).Reset(hyper.ErrCodeCancel)
			l.WantRSTStream("our reset", 1, wire.Cancel)
			l.caller = l.ask(l.get("/"))
			data := l.WantPing("does the peer know?", 0)
			l.WantIdle("no second stream")
			l.WritePing(wire.Ack, data)
			l.WantHeaders("it knows", 3)
			l.next, l.target = 5, 3
			finishWaiting(l)
		}, goesOn},
	{"9113 §5.1.2", "LoweredLimitLeavesOpenStreams", "a limit below what is open ends no stream", waiting,
		set(setting(wire.SettingMaxConcurrentStreams, 0)), func(l *lab) {
			finishWaiting(l)
			l.WantIdle("and ends nothing")
		}},

	// §5.4: errors.
	{"9113 §5.4.1", "GoAwayPrecedesTheClose",
		"a connection error is told by GOAWAY before the close, with all streams' callers told, too", inBody,
		func(l *lab) {
			l.parent = l.ask(l.get("/other"))
			l.WantHeaders("another", 3)
			l.frame(wire.Ping, 0, 1, "12345678")
		}, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §5.4.2", "ResetIsNotAnsweredByReset",
		"RST_STREAM is never answered with RST_STREAM, on a stream we reset either", weReset,
		frame(wire.RSTStream, 0, 1, "\x00\x00\x00\x01"), accepted},
	{"9113 §5.4.2", "StreamErrorsLeaveOthers", "a stream error leaves every other stream as it is", inBody,
		func(l *lab) {
			other := l.send(&hyper.Request{})
			l.WriteHeaders(3, 0, "x-state: kept")
			l.WantRSTStream("there is no :status", 3, wire.ProtocolError)
			if l.told(other) == nil {
				l.t.Error("told nothing")
			}
		}, accepted},
	{"9113 §5.4.3", "LostConnectionIsAnError",
		"a connection closed in the middle of a body is an error for the caller", inBody,
		func(l *lab) {
			l.Close()
			var ce *hyper.ConnError
			if err := l.told(l.caller); !errors.As(err, &ce) || l.caller.Value.body != "hel" {
				l.t.Errorf("told %q, %v", l.caller.Value.body, err)
			}
		}, nil},
	{"9113 §5.4.3", "LostConnectionInAFrame",
		"a connection closed in the middle of a frame is an error for the caller", waiting,
		func(l *lab) {
			l.WriteRaw([]byte("\x00\x00\x05\x01\x05\x00\x00\x00\x01\x88"))
			l.Close()
			var ce *hyper.ConnError
			if err := l.told(l.caller); !errors.As(err, &ce) {
				l.t.Errorf("told %v", err)
			}
		}, nil},
}, discardedRows(), goAwayRows)

// discardedRows returns rows for frames on a stream that we reset (RFC 9113 §5.1). The peer may
// have sent them before it knew of the reset. The client processes them only as far as the state of
// the connection requires.
func discardedRows() (rows []row) {
	for _, at := range []struct {
		name, rule string
		at         *moment
	}{
		{"Reset", "a stream that we reset", weReset},
		{"CancelledInBody", "a stream that its caller closed in its body", cancelledInBody},
		{"Rejected", "a stream that we ended by a stream error", rejected},
	} {
		for _, c := range []struct {
			name string
			peer func(*lab)
		}{
			{"Headers", headers(0, ":status: 200", "x-late: 1")},
			{"ContinuedHeaders", func(l *lab) { l.WriteHeadersSplit(1, 0, 3, ":status: 200", "x-late: 2") }},
			{"MalformedHeaders", headers(0, ":status: no", "X-Late: 3")},
			{"Data", frame(wire.Data, 0, 1, "late")},
			{"DataAndEnd", all(frame(wire.Data, 0, 1, "late"), frame(wire.Data, wire.EndStream, 1, ""))},
			{"Trailers", headers(wire.EndStream, "x-trailer: 1")},
			{"WindowUpdate", frame(wire.WindowUpdate, 0, 1, "\x00\x00\x00\x01")},
			{"RSTStream", frame(wire.RSTStream, 0, 1, "\x00\x00\x00\x08")},
		} {
			rows = append(rows, row{"9113 §5.1", c.name + "On" + at.name,
				fmt.Sprintf("%s are discarded on %s", c.name, at.rule), at.at, c.peer, accepted})
		}
	}
	return append(rows,
		row{"9113 §5.1", "LateDataCountsOnTheConnection",
			"DATA discarded on a closed stream counts for the connection's window: beyond it is " +
				"FLOW_CONTROL_ERROR", weReset.with(tightCfg),
			func(l *lab) {
				for range 4 {
					l.frame(wire.Data, 0, 1, string(make([]byte, 16384)))
				}
			}, endsConn(hyper.ErrCodeFlowControl)},
		row{"9113 §5.1", "LateDataIsCreditedAgain", "the window that discarded DATA took is given back",
			weReset.with(hyper.Config{WindowManager: hyper.ReadWindow{Connection: 65535, Stream: 65535}.New}),
			func(l *lab) {
				l.frame(wire.Data, 0, 1, string(make([]byte, 40000)))
				l.WantWindowUpdate("it will not be read", 0, 40000)
			}, goesOn},
		row{"9113 §5.1", "LatePromiseReservesItsStream",
			"PUSH_PROMISE on a stream that we reset reserves the promised stream all the same; it is " +
				"refused by RST_STREAM", weReset.with(pushing),
			func(l *lab) {
				promise(l, 1, 2)
				l.WantRSTStream("it cannot be claimed", 2, wire.Cancel)
				l.lastPush = 2
				promise(l, 1, 2) // so that stream 2 is no longer idle
			}, endsConn(hyper.ErrCodeProtocol)},
		row{"9113 §5.1", "PromiseBehindAnAnsweredPing",
			"PUSH_PROMISE on a stream that we reset is refused by RST_STREAM also when a later PING has " +
				"been answered", weReset.with(pushing).then(answerPing),
			func(l *lab) {
				promise(l, 1, 2)
				l.WantRSTStream("it cannot be claimed", 2, wire.Cancel)
				l.lastPush = 2
			}, goesOn},
		row{"9113 §5.1", "DataBehindAnAnsweredPing",
			"DATA on a stream that we reset is discarded also when a later PING has been answered",
			weReset.then(answerPing),
			frame(wire.Data, 0, 1, "late"), accepted},
		row{"9113 §5.1", "HeadersBehindAnAnsweredPing",
			"HEADERS on a stream that we reset are discarded also when a later PING has been answered",
			weReset.then(answerPing),
			headers(0, ":status: 200"), accepted},
		row{"9113 §6.9.1", "LateDataBeyondTheWindow",
			"DATA on a stream that we reset counts for its window: beyond it is a connection error",
			weReset.with(tightCfg),
			all(frame(wire.Data, 0, 1, "0123456789"), frame(wire.Data, 0, 1, "x")),
			endsConn(hyper.ErrCodeFlowControl)},
		row{"9113 §5.1", "BadBlockOnAResetStream",
			"the field block of a stream that we reset is decoded: what is wrong with it is a connection " +
				"error", weReset,
			block(0, "\x80"), endsConn(hyper.ErrCodeCompression)},
	)
}

// goAwayRows are about GOAWAY (RFC 9113 §6.8).
var goAwayRows = []row{
	{"9113 §6.8", "GoAwayOnAStream", "GOAWAY on a stream is a connection error", waiting,
		frame(wire.GoAway, 0, 1, "\x00\x00\x00\x01\x00\x00\x00\x00"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.8", "GoAwayOnAnIdleStream", "GOAWAY on an idle stream is a connection error", idle,
		frame(wire.GoAway, 0, 9, "\x00\x00\x00\x01\x00\x00\x00\x00"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.8", "GoAwayRaised", "a later GOAWAY must not raise its last stream: a connection error",
		waiting,
		func(l *lab) {
			l.WriteGoAway(1, wire.NoError, "")
			l.WriteGoAway(3, wire.NoError, "")
		}, func(l *lab) {
			l.WantGoAway("the connection error", 0, wire.ProtocolError)
			l.WantClosed("and the close follows it")
			l.wantConnError("the caller", l.told(l.caller), hyper.ErrCodeProtocol)
		}},
	{"9113 §6.8", "GoAwayLeavesStreamsUpToItsLast", "streams up to the last of a GOAWAY come to their ends",
		inBody,
		func(l *lab) {
			l.WriteGoAway(1, wire.NoError, "")
			l.at.finish(l)
		}, nil},
	{"9113 §6.8", "GoAwayTwice", "GOAWAY may be repeated with the same last stream, or a smaller one",
		inBody,
		func(l *lab) {
			l.WriteGoAway(wire.MaxStreamID, wire.NoError, "soon")
			l.WriteGoAway(1, wire.NoError, "now")
			l.WriteGoAway(1, wire.NoError, "now")
			l.at.finish(l)
		}, nil},
	{"9113 §6.8", "NothingIsOpenedBehindGoAway",
		"no stream is opened on a connection whose peer sent GOAWAY; the caller may try elsewhere", inBody,
		func(l *lab) {
			l.WriteGoAway(1, wire.NoError, "")
			synctest.Wait()
			_, err := l.conn.Get(l.t.Context(), "/late")
			if !hyper.Retryable(err) {
				l.t.Errorf("told %v", err)
			}
			l.WantIdle("and nothing is sent")
			l.at.finish(l)
		}, nil},
	{"9113 §6.8", "StreamsAboveItsLastWereNotProcessed",
		"streams above the last of a GOAWAY are over, and retryable", inBody,
		func(l *lab) {
			above := l.send(&hyper.Request{})
			l.WriteGoAway(1, wire.EnhanceYourCalm, "")
			err := l.told(above)
			l.wantReset(err, hyper.ErrCodeEnhanceYourCalm)
			if !hyper.Retryable(err) {
				l.t.Errorf("%v is not Retryable", err)
			}
			l.at.finish(l)
		}, nil},
	{"9113 §6.8", "GoAwayOfZeroEndsAll", "GOAWAY with last stream 0 says that nothing was processed",
		waiting,
		func(l *lab) {
			l.WriteGoAway(0, wire.InternalError, "")
			if err := l.told(l.caller); !hyper.Retryable(err) || !errors.Is(err, hyper.ErrCodeInternal) {
				l.t.Errorf("told %v", err)
			}
		}, nil},
	{"9113 §6.8", "ReservedBitOfGoAway", "the reserved bit of the last stream is ignored", inBody,
		func(l *lab) {
			l.frame(wire.GoAway, 0, 0, "\x80\x00\x00\x01\x00\x00\x00\x00")
			l.frame(wire.GoAway, 0, 0, "\x00\x00\x00\x01\x00\x00\x00\x00")
			l.at.finish(l)
		}, nil},
	{"9113 §7", "UnknownErrorCodeOfAGoAway",
		"an unknown error code triggers nothing special: GOAWAY, its debug data opaque", waiting,
		func(l *lab) {
			l.WriteGoAway(0, 0xdeadbeef, "\x00\xff")
			var se *hyper.StreamError
			if err := l.told(l.caller); !errors.As(err, &se) || se.Code != 0xdeadbeef {
				l.t.Errorf("told %v", err)
			}
			var ce *hyper.ConnError
			if err := l.conn.Err(); !errors.As(err, &ce) || string(ce.Debug) != "\x00\xff" {
				l.t.Errorf("Err: %v", err)
			}
		}, nil},
	{"9113 §6.8", "CloseSendsGoAway", "the client says GOAWAY before it closes in order", idle,
		func(l *lab) {
			l.conn.Close()
			l.WantGoAway("no hard feelings", 0, wire.NoError)
			l.WantClosed("and the close")
		}, nil},
	{"9113 §6.8", "GoAwayNamesTheLastPush",
		"our GOAWAY names the highest stream of the peer's that we processed", pushInBody,
		frame(wire.Ping, 0, 1, "12345678"), endsConn(hyper.ErrCodeProtocol)},
}
