package conformance

import (
	"errors"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// A moment is the state of an exchange in which a row begins.
type moment struct {
	cfg    hyper.Config
	reach  func(l *lab)
	finish func(l *lab)       // completes the exchange if nothing has ended it
	told   func(l *lab) error // returns the caller's error; nil: there is no caller any more
}

// with returns the same moment with another Config.
func (m *moment) with(cfg hyper.Config) *moment {
	other := *m
	other.cfg = cfg
	return &other
}

// then returns the moment after one more step. finish stays the same.
func (m *moment) then(step func(l *lab)) *moment {
	later := *m
	later.reach = all(m.reach, step, func(*lab) { synctest.Wait() })
	return &later
}

// toldCaller returns the error of l.caller.
func toldCaller(l *lab) error { return l.told(l.caller) }

// nothing is a step that does nothing.
func nothing(*lab) {}

// reachWaiting sends a GET request.
func reachWaiting(l *lab) {
	l.Handshake()
	l.caller = l.send(&hyper.Request{})
}

// finishWaiting writes the response.
func finishWaiting(l *lab) {
	l.t.Helper()
	l.answer(l.target, "hello")
	l.want(l.caller, 200, "hello")
}

// finishBody writes the second half of the body.
func finishBody(l *lab) {
	l.t.Helper()
	l.WriteData(l.target, wire.EndStream, []byte("lo"))
	l.want(l.caller, 200, "hello")
}

// writeBegin writes the header and the first half of the body.
func writeBegin(l *lab) {
	l.WriteHeaders(l.target, 0, ":status: 200", "x-state: kept")
	l.WriteData(l.target, 0, []byte("hel"))
}

// reachUploading opens a POST request whose body does not end yet.
func reachUploading(l *lab) {
	l.Handshake()
	l.stream = l.open(&hyper.Request{Method: "POST"})
	l.caller = l.ask(l.stream.Response)
}

// closeWrite ends the body of the request.
func closeWrite(l *lab) {
	l.t.Helper()
	if err := l.stream.CloseWrite(); err != nil {
		l.t.Fatal(err)
	}
	l.WantData("our end", 1, wire.EndStream, 0)
}

// promise writes a promise of a request for which the peer may push a response.
func promise(l *lab, parent, promised uint32) {
	l.WritePushPromise(parent, promised, ":method: GET", ":scheme: http", ":authority: own.example",
		":path: /pushed")
}

// still gives a window no manager, so that there are no WINDOW_UPDATEs between a row's frames.
func still(*hyper.Window) hyper.WindowManager { return nil }

var (
	// pushing is a client that accepts pushes.
	pushing = hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example", WindowManager: still}

	// tightCfg grants 10 bytes on a stream and 65,535 on the connection.
	tightCfg = hyper.Config{InitialStreamWindow: 10, WindowManager: still}
)

var (
	// beforeSettings: the peer has received our SETTINGS and our request, and has sent nothing.
	beforeSettings = &moment{
		reach: func(l *lab) {
			l.Ignore(wire.WindowUpdate)
			l.caller = l.ask(l.get("/"))
			l.WantPreface("the client begins")
			l.WantHeaders("and asks", 1)
			l.next = 3
		},
		finish: func(l *lab) {
			l.t.Helper()
			set()(l)
			l.WriteSettingsAck()
			finishWaiting(l)
		},
		told: toldCaller,
	}

	// idle: no stream is open.
	idle = &moment{reach: func(l *lab) { l.Handshake() }, finish: nothing}

	// waiting: GET on stream 1 waits for its response. The stream is half-closed (local).
	waiting = &moment{reach: reachWaiting, finish: finishWaiting, told: toldCaller}

	// head: HEAD on stream 1 waits for its response.
	head = &moment{
		reach: func(l *lab) {
			l.Handshake()
			l.caller = l.send(&hyper.Request{Method: "HEAD"})
		},
		finish: func(l *lab) {
			l.t.Helper()
			l.WriteHeaders(1, wire.EndStream, ":status: 200")
			l.want(l.caller, 200, "")
		},
		told: toldCaller,
	}

	// afterInterim: an interim response has come.
	afterInterim = waiting.then(func(l *lab) { l.WriteHeaders(1, 0, ":status: 103", "x-state: kept") })

	// inBody: the response's header and half of its body have come.
	inBody = &moment{
		reach:  waiting.then(writeBegin).reach,
		finish: finishBody,
		told:   toldCaller,
	}

	// uploading: we may write, and the peer has sent nothing on the stream. The stream is open.
	uploading = &moment{
		reach: reachUploading,
		finish: func(l *lab) {
			l.t.Helper()
			finishWaiting(l)
			closeWrite(l)
		},
		told: toldCaller,
	}

	// halfClosed: the response is complete, and we may still write. The stream is half-closed
	// (remote).
	halfClosed = &moment{
		reach:  all(reachUploading, finishWaiting),
		finish: closeWrite,
		told: func(l *lab) error {
			_, err := l.stream.Write([]byte("more"))
			return err
		},
	}

	// closed: both sides have ended stream 1.
	closed = &moment{reach: all(reachWaiting, finishWaiting), finish: nothing}

	// weReset: we have reset stream 1, and the peer may not know it yet.
	weReset = &moment{
		reach: func(l *lab) {
			reachUploading(l)
			l.stream.Reset(hyper.ErrCodeCancel)
			l.WantRSTStream("our reset", 1, wire.Cancel)
			if err := l.told(l.caller); !errors.Is(err, hyper.ErrCanceled) {
				l.t.Errorf("told %v", err)
			}
		},
		finish: nothing,
	}

	// peerReset: the peer has reset stream 1.
	peerReset = &moment{
		reach: func(l *lab) {
			reachWaiting(l)
			l.WriteRSTStream(1, wire.InternalError)
			l.wantReset(l.told(l.caller), hyper.ErrCodeInternal)
		},
		finish: nothing,
	}

	// tunnel: a tunnel is open on stream 1.
	tunnel = &moment{
		reach: func(l *lab) {
			l.Handshake()
			l.stream = l.open(&hyper.Request{Method: "CONNECT", Authority: "far.example:443"})
			l.caller = l.ask(l.stream.Response)
			writeBegin(l)
			synctest.Wait()
		},
		finish: func(l *lab) {
			l.t.Helper()
			finishBody(l)
			closeWrite(l)
		},
		told: toldCaller,
	}

	// pushable: pushes are allowed, and GET on stream 1 waits.
	pushable = waiting.with(pushing)

	// promised: stream 2 is promised on stream 1, and a caller waits for its response. Stream 2 is
	// reserved (remote).
	promised = &moment{
		cfg:    pushing,
		reach:  reachPromised,
		finish: all(finishWaiting, finishParent),
		told:   toldCaller,
	}

	// pushInBody: half of the pushed body has come.
	pushInBody = &moment{
		cfg:    pushing,
		reach:  all(reachPromised, writeBegin, func(*lab) { synctest.Wait() }),
		finish: all(finishBody, finishParent),
		told:   toldCaller,
	}

	// pushRefused: the promise of stream 2 was refused.
	pushRefused = &moment{
		cfg: hyper.Config{
			Authority:     "own.example",
			Push:          &hyper.PushPolicy{Accept: func(*hyper.Push) bool { return false }},
			WindowManager: still,
		},
		reach: func(l *lab) {
			reachWaiting(l)
			promise(l, 1, 2)
			l.WantRSTStream("it is not wanted", 2, wire.Cancel)
			l.target, l.lastPush, l.parent, l.caller = 2, 2, l.caller, nil
		},
		finish: finishParent,
	}

	// tight: the response's header has come. The peer may send 10 bytes of its body, and 65,535 on
	// the connection.
	tight = &moment{
		cfg:   tightCfg,
		reach: all(reachWaiting, func(l *lab) { l.WriteHeaders(1, 0, ":status: 200", "x-state: kept") }),
		finish: func(l *lab) {
			l.t.Helper()
			l.WriteData(1, wire.EndStream, nil)
			if err := l.told(l.caller); err != nil {
				l.t.Error(err)
			}
		},
		told: toldCaller,
	}
)

// reachPromised lets the peer promise stream 2, and starts callers for the push and for its parent.
func reachPromised(l *lab) {
	l.Handshake()
	l.stream = l.open(&hyper.Request{})
	closeWrite(l)
	promise(l, 1, 2)
	for push, err := range l.stream.Pushes(l.t.Context()) {
		if err != nil {
			l.t.Fatal(err)
		}
		l.push = push
		break
	}
	l.target, l.lastPush = 2, 2
	l.caller, l.parent = l.ask(l.push.Response), l.ask(l.stream.Response)
}

// finishParent writes the response on stream 1, which is the parent of the push.
func finishParent(l *lab) {
	l.t.Helper()
	l.answer(1, "parent")
	l.want(l.parent, 200, "parent")
	l.parent = nil
}

// wantReset requires the StreamError of a stream that the peer reset.
func (l *lab) wantReset(err error, code hyper.ErrCode) {
	l.t.Helper()
	var se *hyper.StreamError
	if !errors.As(err, &se) || se.Code != code || !se.FromPeer || !errors.Is(err, code) {
		l.t.Errorf("told %v, want the peer's reset with %v", err, code)
	}
}
