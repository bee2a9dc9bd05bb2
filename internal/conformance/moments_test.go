package conformance

import (
	"errors"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// A moment is where in an exchange a row begins.
type moment struct {
	cfg    hyper.Config
	reach  func(l *lab)
	finish func(l *lab)       // the rest of the exchange, where nothing has ended it
	told   func(l *lab) error // what the caller is told; nil: there is none any more
}

// with is the same moment under another Config.
func (m *moment) with(cfg hyper.Config) *moment {
	other := *m
	other.cfg = cfg
	return &other
}

// then is the moment after one more step. finish stays as it was.
func (m *moment) then(step func(l *lab)) *moment {
	later := *m
	later.reach = all(m.reach, step, func(*lab) { synctest.Wait() })
	return &later
}

func toldCaller(l *lab) error { return l.told(l.caller) }

func nothing(*lab) {}

func reachWaiting(l *lab) {
	l.Handshake()
	l.caller = l.send(&hyper.Request{})
}

func finishWaiting(l *lab) {
	l.t.Helper()
	l.answer(l.target, "hello")
	l.want(l.caller, 200, "hello")
}

func finishBody(l *lab) {
	l.t.Helper()
	l.WriteData(l.target, wire.EndStream, []byte("lo"))
	l.want(l.caller, 200, "hello")
}

func writeBegin(l *lab) {
	l.WriteHeaders(l.target, 0, ":status: 200", "x-state: kept")
	l.WriteData(l.target, 0, []byte("hel"))
}

func reachUploading(l *lab) {
	l.Handshake()
	l.stream = l.open(&hyper.Request{Method: "POST"})
	l.caller = l.ask(l.stream.Response)
}

func closeWrite(l *lab) {
	l.t.Helper()
	if err := l.stream.CloseWrite(); err != nil {
		l.t.Fatal(err)
	}
	l.WantData("our end", 1, wire.EndStream, 0)
}

// promise is a promise of a request that the peer is entitled to answer.
func promise(l *lab, parent, promised uint32) {
	l.WritePushPromise(parent, promised, ":method: GET", ":scheme: http", ":authority: own.example", ":path: /pushed")
}

// still keeps windows as the settings make them: there are no WINDOW_UPDATEs between a row's frames.
func still(*hyper.Window) hyper.WindowManager { return nil }

var (
	pushing = hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example", WindowManager: still}

	// 10 octets on a stream, 65,535 on the connection.
	tightCfg = hyper.Config{InitialStreamWindow: 10, WindowManager: still}
)

var (
	// The peer has our SETTINGS and request, and has said nothing.
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

	// Nothing is open.
	idle = &moment{reach: func(l *lab) { l.Handshake() }, finish: nothing}

	// GET on stream 1 waits for its response: half-closed (local).
	waiting = &moment{reach: reachWaiting, finish: finishWaiting, told: toldCaller}

	// HEAD on stream 1 waits for its response.
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

	// An interim response has come.
	afterInterim = waiting.then(func(l *lab) { l.WriteHeaders(1, 0, ":status: 103", "x-state: kept") })

	// The response's header and half of its body have come.
	inBody = &moment{
		reach:  waiting.then(writeBegin).reach,
		finish: finishBody,
		told:   toldCaller,
	}

	// We may write, the peer has said nothing: open.
	uploading = &moment{
		reach: reachUploading,
		finish: func(l *lab) {
			l.t.Helper()
			finishWaiting(l)
			closeWrite(l)
		},
		told: toldCaller,
	}

	// The response is whole and we may still write: half-closed (remote).
	halfClosed = &moment{
		reach:  all(reachUploading, finishWaiting),
		finish: closeWrite,
		told: func(l *lab) error {
			_, err := l.stream.Write([]byte("more"))
			return err
		},
	}

	// Both sides have ended stream 1: closed.
	closed = &moment{reach: all(reachWaiting, finishWaiting), finish: nothing}

	// We have reset stream 1, and the peer may not know.
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

	// The peer has reset stream 1.
	peerReset = &moment{
		reach: func(l *lab) {
			reachWaiting(l)
			l.WriteRSTStream(1, wire.InternalError)
			l.wantReset(l.told(l.caller), hyper.ErrCodeInternal)
		},
		finish: nothing,
	}

	// A tunnel is open on stream 1.
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

	// Pushes are welcome, and GET on stream 1 waits.
	pushable = waiting.with(pushing)

	// Stream 2 is promised on stream 1 and claimed: reserved (remote).
	promised = &moment{
		cfg:    pushing,
		reach:  reachPromised,
		finish: all(finishWaiting, finishParent),
		told:   toldCaller,
	}

	// Half of the push has come.
	pushInBody = &moment{
		cfg:    pushing,
		reach:  all(reachPromised, writeBegin, func(*lab) { synctest.Wait() }),
		finish: all(finishBody, finishParent),
		told:   toldCaller,
	}

	// The promise of stream 2 was refused.
	pushRefused = &moment{
		cfg: hyper.Config{
			Authority:     "own.example",
			Push:          &hyper.PushPolicy{Accept: func(*hyper.Push) bool { return false }},
			WindowManager: still,
		},
		reach: func(l *lab) {
			reachWaiting(l)
			promise(l, 1, 2)
			l.WantRSTStream("nobody wants it", 2, wire.Cancel)
			l.target, l.lastPush, l.parent, l.caller = 2, 2, l.caller, nil
		},
		finish: finishParent,
	}

	// The response's header has come, and the peer may send 10 octets of its body; 65,535 on the connection.
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

func finishParent(l *lab) {
	l.t.Helper()
	l.answer(1, "parent")
	l.want(l.parent, 200, "parent")
	l.parent = nil
}

// wantReset requires the error of a stream that the peer reset.
func (l *lab) wantReset(err error, code hyper.ErrCode) {
	l.t.Helper()
	var se *hyper.StreamError
	if !errors.As(err, &se) || se.Code != code || !se.FromPeer || !errors.Is(err, code) {
		l.t.Errorf("told %v, want the peer's reset with %v", err, code)
	}
}
