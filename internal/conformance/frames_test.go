package conformance

import (
	"fmt"
	"strings"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// What the peer sends outside of the RFCs: a set reserved bit of the stream identifier, and a frame
// type that does not exist.
const (
	reservedBit = 1 << 31
	unknownType = wire.FrameType(0xfe)
)

// smallFrames is a client that announces the smallest SETTINGS_MAX_FRAME_SIZE, 16,384.
var smallFrames = waiting.with(hyper.Config{MaxFrameSize: wire.MinMaxFrameSize, Push: &hyper.PushPolicy{},
	WindowManager: still})

// frameRows are about single frames.
var frameRows = concat([]row{
	// RFC 9113 §4.1: the header.
	{"9113 §4.1", "ReservedBitOfData", "the reserved bit of a frame header is ignored: DATA", inBody,
		frame(wire.Data, 0, 1|reservedBit, ""), accepted},
	{"9113 §4.1", "ReservedBitOfHeaders", "the reserved bit of a frame header is ignored: HEADERS",
		uploading,
		func(l *lab) { l.WriteHeaders(1|reservedBit, 0, ":status: 103") }, accepted},
	{"9113 §4.1", "ReservedBitOfSettings",
		"the reserved bit of a frame header is ignored: SETTINGS are on stream 0 all the same", waiting,
		func(l *lab) {
			l.frame(wire.Settings, 0, reservedBit, "")
			l.WantSettingsAck("they are SETTINGS")
		}, accepted},
	{"9113 §4.1", "ReservedBitOfPing",
		"the reserved bit of a frame header is ignored: PING is on stream 0 all the same", waiting,
		func(l *lab) {
			l.frame(wire.Ping, 0, reservedBit, "reserved")
			l.wantPong("reserved")
		}, accepted},
	{"9113 §4.1", "UnknownFlagsOfData", "flags without a meaning for the type are ignored: DATA", inBody,
		frame(wire.Data, 0xf6, 1, ""), accepted},
	{"9113 §4.1", "UnknownFlagsOfHeaders", "flags without a meaning for the type are ignored: HEADERS",
		waiting,
		func(l *lab) { l.WriteHeaders(1, 0xd2, ":status: 103") }, accepted},
	{"9113 §4.1", "UnknownFlagsOfContinuation",
		"flags without a meaning for the type are ignored: CONTINUATION with END_STREAM, PADDED and PRIORITY",
		waiting,
		func(l *lab) {
			b := l.EncodeBlock(":status: 103", "x-state: kept")
			l.frame(wire.Headers, 0, 1, string(b[:1]))
			l.frame(wire.Continuation, 0xff, 1, string(b[1:]))
		}, accepted},
	{"9113 §4.1", "UnknownFlagsOfSettings", "flags without a meaning for the type are ignored: SETTINGS",
		waiting,
		func(l *lab) {
			l.frame(wire.Settings, 0xfe, 0, "")
			l.WantSettingsAck("and acknowledged without them")
		}, accepted},
	{"9113 §4.1", "UnknownFlagsOfPing",
		"flags without a meaning for the type are ignored, and not echoed: PING", waiting,
		func(l *lab) {
			l.frame(wire.Ping, 0xfe, 0, "allflags")
			l.wantPong("allflags")
		}, accepted},
	{"9113 §4.1", "UnknownFlagsOfWindowUpdate",
		"flags without a meaning for the type are ignored: WINDOW_UPDATE", waiting,
		frame(wire.WindowUpdate, 0xff, 1, "\x00\x00\x01\x00"), accepted},
	{"9113 §4.1", "UnknownFlagsOfRSTStream", "flags without a meaning for the type are ignored: RST_STREAM",
		waiting,
		func(l *lab) {
			l.frame(wire.RSTStream, 0xff, 1, "\x00\x00\x00\x02")
			l.wantReset(l.told(l.caller), hyper.ErrCodeInternal)
		}, goesOn},
	{"9113 §4.1", "UnknownFlagsOfPushPromise",
		"flags without a meaning for the type are ignored: PUSH_PROMISE with END_STREAM and PRIORITY",
		pushable,
		func(l *lab) {
			b := l.EncodeBlock(":method: GET", ":scheme: http", ":authority: own.example", ":path: /")
			l.frame(wire.PushPromise, 0xf7, 1, "\x00\x00\x00\x02"+string(b))
		}, accepted},
	{"9113 §4.1", "UnknownFlagsOfPriority", "flags without a meaning for the type are ignored: PRIORITY",
		waiting,
		frame(wire.Priority, 0xff, 1, "\x00\x00\x00\x00\x0f"), accepted},

	// §4.2: sizes.
	{"9113 §4.2", "LargestFrameIsTaken", "a frame of exactly SETTINGS_MAX_FRAME_SIZE is taken",
		smallFrames.then(
			func(l *lab) { l.WriteHeaders(1, 0, ":status: 200") }),
		func(l *lab) {
			l.frame(wire.Data, wire.EndStream, 1, strings.Repeat("x", wire.MinMaxFrameSize))
			l.want(l.caller, 200, strings.Repeat("x", wire.MinMaxFrameSize))
		}, goesOn},
	{"9113 §4.2", "AnnouncedFrameSizeIsTaken",
		"what the client announces as SETTINGS_MAX_FRAME_SIZE it takes, before it is acknowledged too",
		beforeSettings.with(hyper.Config{InitialStreamWindow: 256 << 10}),
		func(l *lab) {
			l.WriteSettings()
			l.WantSettingsAck("SETTINGS are acknowledged")
			l.WriteHeaders(1, 0, ":status: 200", "x-state: kept")
			l.frame(wire.Data, wire.EndStream, 1, strings.Repeat("x", 256<<10))
			l.want(l.caller, 200, strings.Repeat("x", 256<<10))
			l.WriteSettingsAck()
		}, goesOn},

	// §6.1: DATA.
	{"9113 §6.1", "DataOnStreamZero", "DATA on stream 0 is a connection error", waiting,
		frame(wire.Data, 0, 0, "hello"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "EmptyDataOnStreamZero", "DATA on stream 0 is a connection error, empty too", inBody,
		frame(wire.Data, 0, 0, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "DataOnStreamZeroOfAnIdleConnection",
		"DATA on stream 0 is a connection error, with nothing open too", idle,
		frame(wire.Data, wire.EndStream, 0, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "PaddingThatLeavesNoData", "padding may leave nothing but the pad length", inBody,
		frame(wire.Data, wire.Padded, 1, "\x05\x00\x00\x00\x00\x00"), accepted},
	{"9113 §6.1", "PaddingBeyondThePayload",
		"padding as long as the payload of DATA, or longer, is a connection error", inBody,
		frame(wire.Data, wire.Padded, 1, "\x06hello"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "PaddingAloneBeyondThePayload",
		"DATA that is nothing but a pad length above 0 is a connection error", inBody,
		frame(wire.Data, wire.Padded, 1, "\x01"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "PaddingBeyondThePayloadAtTheEnd",
		"wrong padding on DATA with END_STREAM is no end of the body", inBody,
		frame(wire.Data, wire.Padded|wire.EndStream, 1, "\xfflo"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "PaddingBeyondThePayloadOnAResetStream",
		"wrong padding is a connection error on a stream that we reset, too", weReset,
		frame(wire.Data, wire.Padded, 1, "\x06hello"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "PaddingBeyondThePayloadOfAPush",
		"wrong padding is a connection error on a pushed stream, too", pushInBody,
		frame(wire.Data, wire.Padded, 2, "\x06hello"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.1", "PaddedDataWithoutAPadLength",
		"DATA with PADDED and no octet is too short: FRAME_SIZE_ERROR (of stream or connection, §4.2; " +
			"here the connection)", inBody,
		frame(wire.Data, wire.Padded, 1, ""), endsConn(hyper.ErrCodeFrameSize)},
	{"9113 §6.1", "PaddingOfZero", "a pad length of 0 is padding of one octet", inBody,
		func(l *lab) { l.WritePaddedData(1, 0, nil, 0) }, accepted},
	{"9113 §6.1", "PaddingIsNotPartOfTheBody", "the longest padding is stripped", waiting,
		func(l *lab) {
			l.WriteHeaders(1, 0, ":status: 200", "x-state: kept", "content-length: 5")
			l.WritePaddedData(1, wire.EndStream, []byte("hello"), 255)
			l.want(l.caller, 200, "hello")
		}, goesOn},
	{"9113 §6.1", "PaddingNeedNotBeZero",
		"padding that is not zero may be a connection error; hyper does not look at it", inBody,
		frame(wire.Data, wire.Padded, 1, "\x03\x01\x02\x03"), accepted},

	// §6.2: HEADERS.
	{"9113 §6.2", "HeadersOnStreamZero", "HEADERS on stream 0 are a connection error", waiting,
		func(l *lab) { l.WriteHeaders(0, 0, ":status: 200") }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.2", "HeadersOnStreamZeroInABody",
		"HEADERS on stream 0 are a connection error, between DATA too", inBody,
		func(l *lab) { l.WriteHeaders(0, wire.EndStream, "x-trailer: 1") }, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.2", "PaddingBeyondAHeaderBlock", "padding longer than HEADERS is a connection error", waiting,
		frame(wire.Headers, wire.EndHeaders|wire.Padded, 1, "\x02\x88"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.2", "PaddingBeyondTrailers",
		"padding longer than trailers is a connection error, and no end of the body", inBody,
		frame(wire.Headers, wire.EndHeaders|wire.EndStream|wire.Padded, 1, "\x01"),
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.2", "PaddingThatLeavesNoRoomForPriority", "padding may not reach into the priority of HEADERS",
		waiting,
		frame(wire.Headers, wire.EndHeaders|wire.Padded|wire.PriorityFlag, 1, "\x02\x00\x00\x00\x00\x0f\x88"),
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.2", "PaddedHeadersWithoutAPadLength",
		"HEADERS with PADDED and no octet are a FRAME_SIZE_ERROR",
		waiting,
		frame(wire.Headers, wire.EndHeaders|wire.Padded, 1, ""), endsConn(hyper.ErrCodeFrameSize)},
	{"9113 §6.2", "HeadersTooShortForTheirPriority",
		"HEADERS with PRIORITY and 4 octets are a FRAME_SIZE_ERROR", waiting,
		frame(wire.Headers, wire.EndHeaders|wire.PriorityFlag, 1, "\x00\x00\x00\x00"),
		endsConn(hyper.ErrCodeFrameSize)},
	{"9113 §6.2", "HeadersTooShortForPaddingAndPriority",
		"HEADERS with PADDED, PRIORITY and 5 octets are a FRAME_SIZE_ERROR", waiting,
		frame(wire.Headers, wire.EndHeaders|wire.PriorityFlag|wire.Padded, 1, "\x00\x00\x00\x00\x00"),
		endsConn(hyper.ErrCodeFrameSize)},
	{"9113 §6.2", "PaddedHeaders", "padding of HEADERS is stripped", waiting,
		func(l *lab) {
			b := l.EncodeBlock(":status: 103", "x-state: kept")
			l.frame(wire.Headers, wire.EndHeaders|wire.Padded, 1,
				"\xff"+string(b)+strings.Repeat("\x00", 255))
		}, accepted},
	{"9113 §6.2", "PaddedHeadersWithContinuation",
		"padding of HEADERS ends with its frame, where CONTINUATION follows", waiting,
		func(l *lab) {
			b := string(l.EncodeBlock(":status: 103", "x-state: kept"))
			l.frame(wire.Headers, wire.Padded, 1, "\x02"+b[:2]+"\x00\x00")
			l.frame(wire.Continuation, wire.EndHeaders, 1, b[2:])
		}, accepted},

	// §5.3.2, §6.3: priority signals.
	{"9113 §5.3.2", "PriorityInHeaders", "the priority fields of HEADERS are skipped", waiting,
		func(l *lab) {
			b := l.EncodeBlock(":status: 103", "x-state: kept")
			l.frame(wire.Headers, wire.EndHeaders|wire.PriorityFlag, 1, "\x80\x00\x00\x07\xff"+string(b))
		}, accepted},
	{"9113 §5.3.2", "PriorityInHeadersOnItself",
		"HEADERS that make a stream depend on itself mean nothing any more (RFC 7540 had an error for it)",
		waiting,
		func(l *lab) {
			b := l.EncodeBlock(":status: 103", "x-state: kept")
			l.frame(wire.Headers, wire.EndHeaders|wire.PriorityFlag, 1, "\x00\x00\x00\x01\x0f"+string(b))
		}, accepted},
	{"9113 §5.3.2", "PriorityOnItself",
		"PRIORITY that makes a stream depend on itself means nothing any more", waiting,
		frame(wire.Priority, 0, 1, "\x00\x00\x00\x01\x0f"), accepted},
	{"9113 §6.3", "PriorityOnStreamZero", "PRIORITY on stream 0 is a connection error", waiting,
		frame(wire.Priority, 0, 0, "\x00\x00\x00\x00\x0f"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.3", "PriorityOfFourOctets",
		"PRIORITY of another size than 5 octets is a stream error, where others are the connection's",
		waiting,
		frame(wire.Priority, 0, 1, "\x00\x00\x00\x00"), endsStream(hyper.ErrCodeFrameSize)},
	{"9113 §6.3", "PriorityOfSixOctetsInABody", "PRIORITY of another size than 5 octets is a stream error",
		inBody,
		frame(wire.Priority, 0, 1, "\x00\x00\x00\x00\x00\x00"), endsStream(hyper.ErrCodeFrameSize)},
	{"9113 §6.3", "EmptyPriorityOnAHalfClosedStream",
		"PRIORITY of another size than 5 octets is a stream error, behind END_STREAM too", halfClosed,
		frame(wire.Priority, 0, 1, ""), endsStream(hyper.ErrCodeFrameSize)},
	{"9113 §6.3", "ShortPriorityOnAPush",
		"PRIORITY of another size than 5 octets is a stream error, on a promised stream too", promised,
		frame(wire.Priority, 0, 2, "\x00"), endsStream(hyper.ErrCodeFrameSize)},
	{"9113 §6.3", "ShortPriorityOnAnIdleStream",
		"PRIORITY of a wrong size on an idle stream: RST_STREAM may not be sent there, so it is the " +
			"connection's", waiting,
		frame(wire.Priority, 0, 7, "\x00"), endsConn(hyper.ErrCodeFrameSize)},
	{"9113 §6.3", "ShortPriorityOnAClosedStream",
		"PRIORITY of a wrong size on a closed stream has nothing to end", closed,
		frame(wire.Priority, 0, 1, "\x00"), accepted},
	{"9113 §6.3", "PriorityOnAnIdleStream", "PRIORITY may come in any state: idle", waiting,
		frame(wire.Priority, 0, 7, "\x00\x00\x00\x00\x0f"), accepted},
	{"9113 §6.3", "PriorityOnAnIdlePush", "PRIORITY may come in any state: idle, of the server's", waiting,
		frame(wire.Priority, 0, 8, "\x00\x00\x00\x00\x0f"), accepted},
	{"9113 §6.3", "PriorityOnAnOpenStream", "PRIORITY may come in any state: open", uploading,
		frame(wire.Priority, 0, 1, "\x00\x00\x00\x00\x0f"), accepted},
	{"9113 §6.3", "PriorityInABody", "PRIORITY may come in any state: half-closed (local), between DATA",
		inBody, frame(wire.Priority, 0, 1, "\x00\x00\x00\x00\x0f"), accepted},
	{"9113 §6.3", "PriorityOnAHalfClosedStream", "PRIORITY may come in any state: half-closed (remote)",
		halfClosed, frame(wire.Priority, 0, 1, "\x00\x00\x00\x00\x0f"), accepted},
	{"9113 §6.3", "PriorityOnAClosedStream", "PRIORITY may come in any state: closed", closed,
		frame(wire.Priority, 0, 1, "\x00\x00\x00\x00\x0f"), accepted},
	{"9113 §6.3", "PriorityOnAReservedStream", "PRIORITY may come in any state: reserved", promised,
		frame(wire.Priority, 0, 2, "\x00\x00\x00\x00\x0f"), accepted},

	// §6.4: RST_STREAM.
	{"9113 §6.4", "ResetOnStreamZero", "RST_STREAM on stream 0 is a connection error", waiting,
		frame(wire.RSTStream, 0, 0, "\x00\x00\x00\x08"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.4", "ResetBeforeTheHeader",
		"RST_STREAM ends the stream with its code, and is not answered with another", waiting,
		func(l *lab) {
			l.WriteRSTStream(1, wire.InternalError)
			l.wantReset(l.told(l.caller), hyper.ErrCodeInternal)
		}, goesOn},
	{"9113 §6.4", "ResetInABody", "RST_STREAM ends the body with an error, never with its end", inBody,
		func(l *lab) {
			l.WriteRSTStream(1, wire.Cancel)
			l.wantReset(l.told(l.caller), hyper.ErrCodeCancel)
		}, goesOn},
	{"9113 §6.4", "ResetWithNoErrorInABody", "RST_STREAM with NO_ERROR in a body is no end of the body",
		inBody,
		func(l *lab) {
			l.WriteRSTStream(1, wire.NoError)
			l.wantReset(l.told(l.caller), hyper.ErrCodeNo)
		}, goesOn},
	{"9113 §7", "UnknownErrorCodeOfAReset", "an unknown error code triggers nothing special: RST_STREAM",
		waiting,
		func(l *lab) {
			l.WriteRSTStream(1, 0xdeadbeef)
			l.wantReset(l.told(l.caller), hyper.ErrCode(0xdeadbeef))
		}, goesOn},
	{"9113 §8.7", "RefusedStreamIsRetryable",
		"REFUSED_STREAM says that nothing was done, so the request can be sent again", waiting,
		func(l *lab) {
			l.WriteRSTStream(1, wire.RefusedStream)
			err := l.told(l.caller)
			l.wantReset(err, hyper.ErrCodeRefusedStream)
			if !hyper.Retryable(err) {
				l.t.Errorf("%v is not Retryable", err)
			}
		}, goesOn},
	{"9113 §8.7", "OtherResetsAreNotRetryable", "another code than REFUSED_STREAM proves nothing", waiting,
		func(l *lab) {
			l.WriteRSTStream(1, wire.Cancel)
			if err := l.told(l.caller); hyper.Retryable(err) {
				l.t.Errorf("%v is Retryable", err)
			}
		}, goesOn},

	// §6.7: PING.
	{"9113 §6.7", "PingOnAStream", "PING on a stream is a connection error", waiting,
		frame(wire.Ping, 0, 1, "12345678"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.7", "PingOnAnIdleStream", "PING on a stream is a connection error, an idle one too", idle,
		frame(wire.Ping, wire.Ack, 2, "12345678"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.7", "PingIsEchoed", "PING is answered with ACK and the same octets", idle,
		func(l *lab) {
			l.frame(wire.Ping, 0, 0, "\x00\xff\x01\x02\x03\x04\x05\x06")
			l.wantPong("\x00\xff\x01\x02\x03\x04\x05\x06")
		}, goesOn},
	{"9113 §6.7", "PingInABodyIsEchoed", "PING is answered between the DATA of a body", inBody,
		func(l *lab) {
			l.frame(wire.Ping, 0, 0, "in a bod")
			l.wantPong("in a bod")
		}, accepted},
	{"9113 §6.7", "PingsAreEchoedInTurn", "each PING has its own answer", waiting,
		func(l *lab) {
			for i := range 5 {
				l.frame(wire.Ping, 0, 0, fmt.Sprintf("ping   %d", i))
			}
			for i := range 5 {
				l.wantPong(fmt.Sprintf("ping   %d", i))
			}
		}, accepted},
	{"9113 §6.7", "PingAckIsNotAnswered", "PING with ACK is not answered, of whatever octets", waiting,
		frame(wire.Ping, wire.Ack, 0, "whatever"), accepted},
	{"9113 §6.7", "PingAckOnAnotherPing", "PING with ACK is an answer to its octets alone", idle,
		func(l *lab) {
			done := make(chan error, 1)
			go func() {
				_, err := l.conn.Ping(l.t.Context())
				done <- err
			}()
			data := l.WantPing("a PING", 0)
			l.frame(wire.Ping, wire.Ack, 0, "whatever")
			synctest.Wait()
			if len(done) > 0 {
				l.t.Errorf("answered by other octets: %v", <-done)
			}
			l.WritePing(wire.Ack, data)
			if err := <-done; err != nil {
				l.t.Error(err)
			}
		}, goesOn},

	// §6.10: CONTINUATION.
	{"9113 §6.10", "ContinuationOfNothing", "CONTINUATION without HEADERS is a connection error", waiting,
		frame(wire.Continuation, wire.EndHeaders, 1, "\x88"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.10", "ContinuationOfAWholeBlock", "CONTINUATION behind END_HEADERS is a connection error",
		waiting,
		all(headers(0, ":status: 200"), frame(wire.Continuation, wire.EndHeaders, 1, "")),
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.10", "ContinuationOfAContinuedBlock",
		"CONTINUATION behind CONTINUATION with END_HEADERS is a connection error", waiting,
		all(frame(wire.Headers, 0, 1, "\x88"), frame(wire.Continuation, wire.EndHeaders, 1, ""),
			frame(wire.Continuation, wire.EndHeaders, 1, "")),
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.10", "ContinuationBehindData", "CONTINUATION behind DATA is a connection error", inBody,
		frame(wire.Continuation, wire.EndHeaders, 1, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.10", "ContinuationOnStreamZero", "CONTINUATION on stream 0 is a connection error", waiting,
		frame(wire.Continuation, wire.EndHeaders, 0, "\x88"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.10", "ContinuationOnAnIdleStream", "CONTINUATION on an idle stream is a connection error",
		waiting,
		frame(wire.Continuation, wire.EndHeaders, 5, "\x88"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.10", "ContinuationBehindAnUnknownFrame", "an unknown frame is nothing to continue", waiting,
		all(frame(unknownType, 0, 1, "?"), frame(wire.Continuation, wire.EndHeaders, 1, "")),
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.10", "BlockInFragmentsOfOneOctet", "any number of CONTINUATIONs makes one block", waiting,
		func(l *lab) { l.WriteHeadersSplit(1, 0, 1, ":status: 103", "x-state: kept") }, accepted},
	{"9113 §6.10", "EmptyFragments", "fragments may be empty", waiting,
		all(frame(wire.Headers, 0, 1, ""), frame(wire.Continuation, 0, 1, ""),
			frame(wire.Continuation, 0, 1, "\x08\x03103"), frame(wire.Continuation, wire.EndHeaders, 1, "")),
		accepted},
	{"9113 §6.2", "EndStreamIsOfHeaders",
		"END_STREAM on HEADERS ends the stream though CONTINUATION follows",
		inBody,
		func(l *lab) {
			l.WriteHeadersSplit(1, wire.EndStream, 1, "x-trailer: 1")
			l.want(l.caller, 200, "hel")
			if got := l.caller.Value.resp.Trailer().Get("x-trailer"); got != "1" {
				l.t.Errorf("trailer %q", got)
			}
		}, goesOn},
	{"9113 §4.3", "BlockWithoutAnEnd",
		"a field block that never ends has a bound of hyper's own: ENHANCE_YOUR_CALM", waiting,
		func(l *lab) {
			l.frame(wire.Headers, 0, 1, "\x88")
			for range 100 {
				l.frame(wire.Continuation, 0, 1, "")
			}
		}, endsConn(hyper.ErrCodeEnhanceYourCalm)},

	// §5.5: extensions.
	{"9113 §5.5", "UnknownFrameOnStreamZero", "frames of unknown types are ignored: on stream 0", waiting,
		frame(unknownType, 0, 0, "extension"), accepted},
	{"9113 §5.5", "UnknownFrameOnAnOpenStream",
		"frames of unknown types are ignored: on an open stream, whatever the flags", uploading,
		frame(unknownType, 0xff, 1, "extension"), accepted},
	{"9113 §5.5", "UnknownFrameInABody",
		"frames of unknown types are ignored: between DATA, and no part of the body", inBody,
		frame(unknownType, 1, 1, "extension"), accepted},
	{"9113 §5.5", "UnknownFrameOnAnIdleStream", "frames of unknown types are ignored: on an idle stream",
		waiting, frame(unknownType, 0, 99, "extension"), accepted},
	{"9113 §5.5", "UnknownFrameOnAClosedStream", "frames of unknown types are ignored: on a closed stream",
		closed, frame(unknownType, 0, 1, "extension"), accepted},
	{"9113 §5.5", "UnknownFrameOnAHalfClosedStream",
		"frames of unknown types are ignored: behind END_STREAM",
		halfClosed, frame(unknownType, 0, 1, "extension"), accepted},
	{"9113 §5.5", "UnknownFrameOnAPush", "frames of unknown types are ignored: on a reserved stream",
		promised, frame(unknownType, 0, 2, "extension"), accepted},
	{"9113 §5.5", "UnknownFrameOfTheLargestSize", "frames of unknown types are ignored: of the largest size",
		smallFrames,
		frame(unknownType, 0, 0, strings.Repeat("x", wire.MinMaxFrameSize)), accepted},
	{"9113 §5.5", "UnknownFrameWithoutPayload", "frames of unknown types are ignored: empty", waiting,
		frame(0xff, 0, 0, ""), accepted},
	{"9113 §5.5", "AltSvcAndOrigin",
		"frames of extensions that hyper does not use are ignored: ALTSVC and ORIGIN", waiting,
		all(frame(wire.AltSvc, 0, 0, "\x00\x00"), frame(wire.Origin, 0, 0, "")), accepted},

	// RFC 9218 §7.1.
	{"9218 §7.1", "PriorityUpdateFromAServer",
		"PRIORITY_UPDATE is the client's to send: from a server it is a connection error", waiting,
		frame(wire.PriorityUpdate, 0, 0, "\x00\x00\x00\x01u=1"), endsConn(hyper.ErrCodeProtocol)},
	{"9218 §7.1", "PriorityUpdateFromAServerInABody",
		"PRIORITY_UPDATE from a server is a connection error, whatever is in it", inBody,
		frame(wire.PriorityUpdate, 0, 0, ""), endsConn(hyper.ErrCodeProtocol)},
}, oversizeRows(), wrongSizeRows(), interleavedRows())

// concat joins tables of rows.
func concat(tables ...[]row) (rows []row) {
	for _, t := range tables {
		rows = append(rows, t...)
	}
	return rows
}

// wantPong requires an acknowledgment of a PING with these bytes.
func (l *lab) wantPong(octets string) {
	l.t.Helper()
	if got := l.WantPing("the answer", wire.Ack); string(got[:]) != octets {
		l.t.Errorf("it echoes %q, want %q", got, octets)
	}
}

// oversizeRows returns rows for frames above SETTINGS_MAX_FRAME_SIZE (RFC 9113 §4.2). They are a
// FRAME_SIZE_ERROR. It is a connection error if the frame could change the state of the connection.
func oversizeRows() (rows []row) {
	for _, c := range []struct {
		typ    wire.FrameType
		name   string
		stream uint32
		scope  string
	}{
		{wire.Data, "Data", 1, "stream or connection; here the connection"},
		{wire.Headers, "Headers", 1, "the connection: it carries a field block"},
		{wire.Priority, "Priority", 1, "stream or connection; here the connection"},
		{wire.RSTStream, "RSTStream", 1, "the connection"},
		{wire.Settings, "Settings", 0, "the connection"},
		{wire.PushPromise, "PushPromise", 1, "the connection: it carries a field block"},
		{wire.Ping, "Ping", 0, "the connection: stream 0"},
		{wire.GoAway, "GoAway", 0, "the connection: stream 0"},
		{wire.WindowUpdate, "WindowUpdate", 0, "the connection: stream 0"},
		{wire.Continuation, "Continuation", 1, "the connection: it carries a field block"},
		{unknownType, "Unknown", 0, "the connection: stream 0"},
	} {
		rows = append(rows, row{"9113 §4.2", "Oversize" + c.name,
			fmt.Sprintf("%v above SETTINGS_MAX_FRAME_SIZE is a FRAME_SIZE_ERROR (of %s)", c.typ, c.scope),
			smallFrames,
			func(l *lab) {
				if c.typ == wire.Continuation {
					l.frame(wire.Headers, 0, 1, "\x88")
				}
				l.frame(c.typ, 0, c.stream, strings.Repeat("\x00", 16386)) // a multiple of 6
			}, endsConn(hyper.ErrCodeFrameSize)})
	}
	return rows
}

// wrongSizeRows returns rows for frames whose size is fixed or has a minimum, with a wrong size.
func wrongSizeRows() (rows []row) {
	for _, c := range []struct {
		section, name string
		typ           wire.FrameType
		flags         wire.Flags
		stream        uint32
		sizes         []int
		rule          string
	}{
		{"9113 §6.4", "Reset", wire.RSTStream, 0, 1, []int{0, 3, 5},
			"RST_STREAM of another size than 4 octets is a connection error"},
		{"9113 §6.5", "Settings", wire.Settings, 0, 0, []int{1, 5, 7},
			"SETTINGS that are no multiple of 6 octets are a connection error"},
		{"9113 §6.5", "SettingsAck", wire.Settings, wire.Ack, 0, []int{1, 6},
			"SETTINGS with ACK and a payload are a connection error"},
		{"9113 §6.6", "PushPromise", wire.PushPromise, wire.EndHeaders, 1, []int{0, 3},
			"PUSH_PROMISE too short for its stream is a connection error"},
		{"9113 §6.6", "PaddedPushPromise", wire.PushPromise, wire.EndHeaders | wire.Padded, 1, []int{0, 4},
			"PUSH_PROMISE too short for its pad length and stream is a connection error"},
		{"9113 §6.7", "Ping", wire.Ping, 0, 0, []int{0, 7, 9},
			"PING of another size than 8 octets is a connection error"},
		{"9113 §6.7", "PingAck", wire.Ping, wire.Ack, 0, []int{4},
			"PING of another size than 8 octets is a connection error, an answer too"},
		{"9113 §6.8", "GoAway", wire.GoAway, 0, 0, []int{0, 7},
			"GOAWAY shorter than 8 octets is a connection error"},
		{"9113 §6.9", "WindowUpdate", wire.WindowUpdate, 0, 0, []int{0, 3, 5},
			"WINDOW_UPDATE of another size than 4 octets is a connection error"},
		{"9113 §6.9", "StreamWindowUpdate", wire.WindowUpdate, 0, 1, []int{3, 8},
			"WINDOW_UPDATE of another size than 4 octets is a connection error, on a stream too"},
	} {
		for _, size := range c.sizes {
			rows = append(rows, row{c.section, fmt.Sprintf("%sOf%dOctets", c.name, size),
				fmt.Sprintf("%s: %d", c.rule, size), pushable,
				frame(c.typ, c.flags, c.stream, strings.Repeat("\x00", size)),
				endsConn(hyper.ErrCodeFrameSize)})
		}
	}
	return rows
}

// interleavedRows returns rows for frames inside a field block. Only CONTINUATION of the same
// stream may be there (RFC 9113 §6.2, §6.6, §6.10).
func interleavedRows() (rows []row) {
	for _, c := range []struct {
		name    string
		typ     wire.FrameType
		stream  uint32
		payload string
	}{
		{"Data", wire.Data, 1, "hello"},
		{"HeadersOfTheSameStream", wire.Headers, 1, "\x88"},
		{"HeadersOfAnotherStream", wire.Headers, 3, "\x88"},
		{"Priority", wire.Priority, 1, "\x00\x00\x00\x00\x0f"},
		{"ResetOfTheSameStream", wire.RSTStream, 1, "\x00\x00\x00\x08"},
		{"Settings", wire.Settings, 0, ""},
		{"PushPromise", wire.PushPromise, 1, "\x00\x00\x00\x02"},
		{"Ping", wire.Ping, 0, "12345678"},
		{"GoAway", wire.GoAway, 0, "\x00\x00\x00\x01\x00\x00\x00\x00"},
		{"WindowUpdate", wire.WindowUpdate, 0, "\x00\x00\x00\x01"},
		{"ContinuationOfAnotherStream", wire.Continuation, 3, "\x88"},
		{"ContinuationOfStreamZero", wire.Continuation, 0, "\x88"},
		{"UnknownFrame", unknownType, 1, "extension"},
	} {
		section := "9113 §6.10"
		if c.typ == unknownType {
			section = "9113 §5.5"
		}
		rows = append(rows, row{section, "InFieldBlock_" + c.name,
			fmt.Sprintf("%v inside a field block (%s) is a connection error", c.typ, c.name), pushable,
			func(l *lab) {
				l.frame(wire.Headers, 0, 1, "\x88")
				l.frame(c.typ, 0, c.stream, c.payload)
				l.frame(wire.Continuation, wire.EndHeaders, 1, "")
			}, endsConn(hyper.ErrCodeProtocol)})
	}
	for _, c := range []struct {
		name, rule string
		at         *moment
		first      wire.FrameType
		flags      wire.Flags
		payload    string
	}{
		{"Promise", "DATA inside the field block of a promise is a connection error", pushable,
			wire.PushPromise, 0, "\x00\x00\x00\x02"},
		{"Trailers", "DATA inside the field block of trailers is a connection error, and no end of the body",
			inBody, wire.Headers, wire.EndStream, ""},
		{"AResetStream", "DATA inside a field block is a connection error on a stream that we reset, too",
			weReset, wire.Headers, 0, "\x88"},
	} {
		rows = append(rows, row{"9113 §6.10", "DataInTheBlockOf" + c.name, c.rule, c.at,
			all(frame(c.first, c.flags, 1, c.payload), frame(wire.Data, 0, 1, "hello")),
			endsConn(hyper.ErrCodeProtocol)})
	}
	return rows
}
