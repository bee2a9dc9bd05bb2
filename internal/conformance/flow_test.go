package conformance

import (
	"strings"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// octets returns n bytes of a body.
func octets(n int) string { return strings.Repeat("x", n) }

// ample is a response that waits. Its stream has a large window, and the connection grants 65,535
// bytes and no more.
var ample = &moment{
	cfg:   hyper.Config{InitialStreamWindow: 1 << 20, WindowManager: still},
	reach: tight.reach,
	told:  toldCaller,
}

// tightPush is the moment tight for a push.
var tightPush = promised.with(hyper.Config{InitialStreamWindow: 10, WindowManager: still, Push: pushing.Push,
	Authority: pushing.Authority}).
	then(func(l *lab) { l.WriteHeaders(2, 0, ":status: 200", "x-state: kept") })

// fills writes more than the connection's window, in frames that are valid by themselves.
func fills(stream uint32, last int) func(*lab) {
	return func(l *lab) {
		for range 3 {
			l.frame(wire.Data, 0, stream, octets(16384))
		}
		l.frame(wire.Data, 0, stream, octets(last))
	}
}

// flowRows are about flow control.
var flowRows = []row{
	// RFC 9113 §6.9, §6.9.1: what the peer sends.
	{"9113 §6.9.1", "StreamWindowInOneFrame", "DATA beyond the stream's window is a stream error", tight,
		frame(wire.Data, 0, 1, octets(11)), endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "StreamWindowInManyFrames",
		"DATA beyond the stream's window is a stream error, in the sum of its frames", tight,
		all(frame(wire.Data, 0, 1, octets(10)), frame(wire.Data, 0, 1, octets(1))),
		endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "StreamWindowAtTheEnd",
		"DATA with END_STREAM beyond the stream's window is a stream error, and no end of the body", tight,
		frame(wire.Data, wire.EndStream, 1, octets(11)), endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "StreamWindowOfAPush", "DATA beyond a pushed stream's window is a stream error",
		tightPush, frame(wire.Data, 0, 2, octets(11)), endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.1", "PaddingCounts", "padding and its length count for flow control", tight,
		func(l *lab) { l.WritePaddedData(1, 0, []byte(octets(5)), 5) }, endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.1", "PaddingAloneCounts", "DATA of padding alone counts for flow control", tight,
		func(l *lab) { l.WritePaddedData(1, 0, nil, 10) }, endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "WindowOfZero", "a window of 0 takes no octet",
		tight.with(hyper.Config{InitialStreamWindow: -1, WindowManager: still}),
		frame(wire.Data, 0, 1, "x"), endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "WindowOfZeroTakesTheEnd", "an empty DATA frame needs no window",
		tight.with(hyper.Config{InitialStreamWindow: -1, WindowManager: still}), nil, accepted},
	{"9113 §6.9.1", "StreamWindowToTheOctet", "the whole window may be used, padding and all", tight,
		all(frame(wire.Data, 0, 1, octets(4)), func(l *lab) {
			l.WritePaddedData(1, 0, []byte(octets(2)),
				3)
		}), accepted},
	{"9113 §6.9.1", "ConnectionWindow", "DATA beyond the connection's window is a connection error", ample,
		fills(1, 16384), endsConn(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "ConnectionWindowByOneOctet",
		"DATA beyond the connection's window is a connection error, by one octet of padding too", ample,
		all(fills(1, 16383), func(l *lab) { l.WritePaddedData(1, 0, nil, 0) }),
		endsConn(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "ConnectionWindowToTheOctet", "the whole connection's window may be used", ample,
		func(l *lab) {
			fills(1, 16383)(l)
			l.WriteData(1, wire.EndStream, nil)
			l.want(l.caller, 200, octets(65535))
			l.WantIdle("no rule is broken")
		}, nil},
	{"9113 §6.9.1", "ConnectionWindowOfManyStreams", "all streams together use the connection's window",
		ample,
		func(l *lab) {
			second := l.send(&hyper.Request{})
			l.WriteHeaders(3, 0, ":status: 200")
			fills(1, 10000)(l)
			l.frame(wire.Data, 0, 3, octets(10000))
			if err := l.told(second); err == nil {
				l.t.Error("told nothing")
			}
		}, endsConn(hyper.ErrCodeFlowControl)},
	{"9113 §6.9", "DataOnHalfClosedCounts",
		"DATA that is refused counts for the connection's window all the same",
		halfClosed.with(hyper.Config{WindowManager: still}),
		func(l *lab) {
			l.frame(wire.Data, 0, 1, octets(16384))
			l.WantRSTStream("the stream error", 1, wire.StreamClosed)
			l.at = closed // the caller already has that error
			fills(1, 16384)(l)
		}, endsConn(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "RefusedDataIsCreditedAgain",
		"the connection's window that refused DATA took is given back",
		tight.with(hyper.Config{InitialStreamWindow: 10,
			WindowManager: func(w *hyper.Window) hyper.WindowManager {
				if w.StreamID() == 0 {
					return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return ev.Consumed() })
				}
				return nil
			}}), frame(wire.Data, 0, 1, octets(1000)), func(l *lab) {
			l.WantRSTStream("beyond the stream's window", 1, wire.FlowControlError)
			l.WantWindowUpdate("and the connection's again", 0, 1000)
			l.Ignore(wire.WindowUpdate)
			l.goesOn()
		}},

	// §6.9: WINDOW_UPDATE.
	{"9113 §6.9", "WindowUpdateOfZero", "WINDOW_UPDATE of 0 on a stream is a stream error", waiting,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x00\x00"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §6.9", "WindowUpdateOfZeroInABody",
		"WINDOW_UPDATE of 0 on a stream is a stream error, in its body too", inBody,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x00\x00"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §6.9", "WindowUpdateOfZeroWhileUploading",
		"WINDOW_UPDATE of 0 on a stream is a stream error, on an open one too", uploading,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x00\x00"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §6.9", "WindowUpdateOfZeroOnHalfClosed",
		"WINDOW_UPDATE of 0 on a stream is a stream error, behind its END_STREAM too", halfClosed,
		frame(wire.WindowUpdate, 0, 1, "\x00\x00\x00\x00"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §6.9", "WindowUpdateOfTheReservedBit",
		"the reserved bit is no part of the increment: with nothing else it is 0", waiting,
		frame(wire.WindowUpdate, 0, 1, "\x80\x00\x00\x00"), endsStream(hyper.ErrCodeProtocol)},
	{"9113 §6.9", "WindowUpdateWithTheReservedBit", "the reserved bit of an increment is ignored", waiting,
		all(frame(wire.WindowUpdate, 0, 1, "\x80\x00\x01\x00"),
			frame(wire.WindowUpdate, 0, 0, "\x80\x00\x01\x00")), accepted},
	{"9113 §6.9", "ConnectionWindowUpdateOfZero",
		"WINDOW_UPDATE of 0 on the connection is a connection error", waiting,
		frame(wire.WindowUpdate, 0, 0, "\x00\x00\x00\x00"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.9", "ConnectionWindowUpdateOfZeroOfAnIdleConnection",
		"WINDOW_UPDATE of 0 on the connection is a connection error, with nothing open too", idle,
		frame(wire.WindowUpdate, 0, 0, "\x80\x00\x00\x00"), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.9.1", "StreamWindowOverflow",
		"WINDOW_UPDATE that raises a stream's window above 2^31-1 is a stream error", waiting,
		frame(wire.WindowUpdate, 0, 1, "\x7f\xff\xff\xff"), endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "StreamWindowOverflowByOne",
		"a window of 2^31-1 is legal, one octet more is a stream error", uploading,
		func(l *lab) {
			l.WriteWindowUpdate(1, wire.MaxWindow-65535)
			l.WantIdle("it is legal")
			l.WriteWindowUpdate(1, 1)
		}, endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "StreamWindowOverflowOnHalfClosed",
		"WINDOW_UPDATE that raises a window above 2^31-1 is a stream error, behind the peer's END_STREAM too",
		halfClosed, frame(wire.WindowUpdate, 0, 1, "\x7f\xff\xff\xff"), endsStream(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "ConnectionWindowOverflow",
		"WINDOW_UPDATE that raises the connection's window above 2^31-1 is a connection error", waiting,
		frame(wire.WindowUpdate, 0, 0, "\x7f\xff\xff\xff"), endsConn(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.1", "ConnectionWindowOverflowByOne",
		"a connection window of 2^31-1 is legal, one octet more is a connection error", inBody,
		func(l *lab) {
			l.WriteWindowUpdate(0, wire.MaxWindow-65535)
			l.WantIdle("it is legal")
			l.WriteWindowUpdate(0, 1)
		}, endsConn(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.2", "InitialWindowOverflow",
		"INITIAL_WINDOW_SIZE that raises a stream's window above 2^31-1 is a connection error", uploading,
		func(l *lab) {
			l.WriteWindowUpdate(1, 1)
			l.WriteSettings(setting(wire.SettingInitialWindowSize, wire.MaxWindow))
		}, endsConn(hyper.ErrCodeFlowControl)},
	{"9113 §6.9.2", "InitialWindowOfTheMaximum",
		"INITIAL_WINDOW_SIZE of 2^31-1 is legal where no stream has more than it", uploading,
		set(setting(wire.SettingInitialWindowSize, wire.MaxWindow)), accepted},
	{"9113 §6.9.2", "InitialWindowOverflowOfAClosedStream",
		"a closed stream has no window that could be too large", closed.replace(func(l *lab) {
			reachWaiting(l)
			l.WriteWindowUpdate(1, 1000)
			finishWaiting(l)
		}), set(setting(wire.SettingInitialWindowSize, wire.MaxWindow)), accepted},

	// What the client sends. The peer checks every DATA frame against both windows.
	{"9113 §6.9.1", "ClientKeepsTheStreamsWindow",
		"the client sends what the stream's window lets it, to the octet, and then waits", uploading,
		func(l *lab) {
			go l.stream.Write(make([]byte, 70000))
			l.wantOctets(1, 65535)
			l.WantIdle("the window is used up")
			l.WriteWindowUpdate(0, 100000)
			l.WantIdle("the stream's is")
			l.WriteWindowUpdate(1, 1)
			l.WantData("one more", 1, 0, 1)
			l.WriteWindowUpdate(1, 100000)
			l.wantOctets(1, 70000-65536)
		}, accepted},
	{"9113 §6.9.1", "ClientKeepsTheConnectionsWindow",
		"the client sends what the connection's window lets it, all streams together", uploading,
		func(l *lab) {
			set(setting(wire.SettingInitialWindowSize, 1<<20))(l)
			go l.stream.Write(make([]byte, 60000))
			l.wantOctets(1, 60000)
			second := l.open(&hyper.Request{Method: "POST"})
			go second.Write(make([]byte, 6000))
			l.wantOctets(3, 5535)
			l.WantIdle("the window is used up")
			l.WriteWindowUpdate(3, 100000)
			l.WantIdle("the connection's is")
			l.WriteWindowUpdate(0, 100000)
			l.wantOctets(3, 465)
			second.CloseWrite()
			l.WantData("its end", 3, wire.EndStream, 0)
			l.WriteHeaders(3, wire.EndStream, ":status: 200")
		}, accepted},
	{"9113 §6.9.2", "InitialWindowHoldsForOpenStreams",
		"a larger INITIAL_WINDOW_SIZE opens the windows of streams that wait", uploading,
		func(l *lab) {
			set(setting(wire.SettingInitialWindowSize, 0))(l)
			go l.stream.Write([]byte("hello"))
			l.WantIdle("there is no window")
			set(setting(wire.SettingInitialWindowSize, 3))(l)
			l.WantData("what fits", 1, 0, 3)
			set(setting(wire.SettingInitialWindowSize, 100))(l)
			l.WantData("the rest", 1, 0, 2)
		}, accepted},
	{"9113 §6.9.2", "NegativeWindow",
		"a smaller INITIAL_WINDOW_SIZE may make a window negative: nothing is sent until it is positive",
		uploading,
		func(l *lab) {
			if _, err := l.stream.Write(make([]byte, 100)); err != nil {
				l.t.Error(err)
			}
			l.WantData("at first", 1, 0, 100)
			set(setting(wire.SettingInitialWindowSize, 10))(l) // the window becomes -90
			go l.stream.Write([]byte("hello"))
			l.WriteWindowUpdate(1, 90)
			l.WantIdle("it is 0")
			l.WriteWindowUpdate(1, 2)
			l.WantData("it is 2", 1, 0, 2)
			l.WriteWindowUpdate(1, 100)
			l.WantData("the rest", 1, 0, 3)
		}, accepted},
	{"9113 §6.9.2", "SettingsLeaveTheConnectionsWindow",
		"INITIAL_WINDOW_SIZE is no window of the connection",
		uploading,
		func(l *lab) {
			set(setting(wire.SettingInitialWindowSize, 1<<20))(l)
			go l.stream.Write(make([]byte, 65536))
			l.wantOctets(1, 65535)
			l.WantIdle("the connection's is used up")
			l.WriteWindowUpdate(0, 1)
			l.WantData("one more", 1, 0, 1)
			l.WriteWindowUpdate(0, 1000)
		}, accepted},
	{"9113 §6.9.1", "EndNeedsNoWindow", "END_STREAM on an empty DATA frame needs no window", uploading,
		func(l *lab) {
			set(setting(wire.SettingInitialWindowSize, 0))(l)
			closeWrite(l)
			finishWaiting(l)
		}, goesOn},
	{"9113 §6.9", "HeadersNeedNoWindow", "flow control is DATA's: requests and trailers need no window",
		uploading,
		func(l *lab) {
			set(setting(wire.SettingInitialWindowSize, 0))(l)
			if err := l.stream.SendTrailers(hyper.Header{{Name: "x-trailer", Value: "1"}}); err != nil {
				l.t.Error(err)
			}
			l.WantHeaders("trailers", 1, "x-trailer: 1")
			finishWaiting(l)
		}, goesOn},
	{"9113 §6.9", "OtherFramesNeedNoWindow",
		"flow control is DATA's: PING is answered while an upload waits for window", uploading,
		func(l *lab) {
			set(setting(wire.SettingInitialWindowSize, 0))(l)
			go l.stream.Write([]byte("hello"))
			synctest.Wait()
			l.frame(wire.Ping, 0, 0, "12345678")
			l.wantPong("12345678")
			l.WriteWindowUpdate(1, 5)
			l.WantData("and then it goes on", 1, 0, 5)
		}, func(l *lab) { finishWaiting(l); closeWrite(l) }},
	{"9113 §4.2", "ClientKeepsThePeersFrameSize",
		"the client's DATA frames are no larger than the peer's MAX_FRAME_SIZE, 16,384 unless it says more",
		uploading,
		func(l *lab) {
			go l.stream.Write(make([]byte, 16385))
			l.WantData("the largest", 1, 0, 16384)
			l.WantData("the rest", 1, 0, 1)
		}, accepted},
}

// wantOctets reads DATA of the stream until it has n bytes.
func (l *lab) wantOctets(stream uint32, n int) {
	l.t.Helper()
	for n > 0 {
		f := l.WantFrame("DATA", wire.Data)
		if n -= f.Length; f.StreamID != stream || n < 0 {
			l.t.Fatalf("got %v, and %d octets too many", f, -n)
		}
	}
}
