package hyper

import (
	"fmt"
	"sync"
	"time"
)

// A ConnEvent is a step in the life of a Transport's connection, for Transport.OnConn.
type ConnEvent struct {
	Kind   ConnEventKind
	Time   time.Time  // when it happened, which may be before the call
	Host   string     // the origin that the connection is for, such as "https://example.com:8443"
	Proxy  string     // the URL of the proxy, without user and password; empty: none
	Conn   *Conn      // nil with ConnFailed
	Reason ConnReason // why; 0 with ConnOpened

	// Err is what Conn.Err returns, with ConnClosed; why there is no connection, with ConnFailed;
	// the peer's GOAWAY as a *ConnError, with ConnDraining, nil if none has come.
	Err error
}

// A ConnEventKind is what has happened to a connection.
type ConnEventKind uint8

const (
	ConnOpened   ConnEventKind = iota + 1 // it is made; the peer's SETTINGS are still to come
	ConnDraining                          // it takes no more requests, and has streams
	ConnClosed                            // it has ended, and its socket is closed
	ConnFailed                            // it could not be made
)

var connEventKinds = []string{
	ConnOpened: "opened", ConnDraining: "draining", ConnClosed: "closed", ConnFailed: "failed",
}

// String returns a word: "opened", "draining", "closed" or "failed".
func (k ConnEventKind) String() string { return word("ConnEventKind", connEventKinds, uint8(k)) }

// A ConnReason is why a connection drains, was closed, or could not be made.
type ConnReason uint8

const (
	// ReasonGoAway: the peer sent GOAWAY.
	ReasonGoAway ConnReason = iota + 1
	// ReasonLost: the peer or the network closed the connection.
	ReasonLost
	// ReasonPingTimeout: the peer did not answer a PING in time.
	ReasonPingTimeout
	// ReasonTimeout: the peer did not send or acknowledge SETTINGS in time, or did not read.
	ReasonTimeout
	// ReasonError: this side sent GOAWAY with an error. The peer broke a rule, or a window manager
	// failed.
	ReasonError
	// ReasonClosed: Conn.Close or Conn.Shutdown was called.
	ReasonClosed
	// ReasonIdle: the connection had no streams for Transport.IdleConnTimeout.
	ReasonIdle
	// ReasonSurplus: MaxConns or MaxIdleConns, or MaxIdleConnsPerHost of an http.Transport, allows no
	// more.
	ReasonSurplus
	// ReasonCloseIdle: CloseIdleConnections was called.
	ReasonCloseIdle
	// ReasonAge: the connection is as old as Transport.MaxConnAge.
	ReasonAge
	// ReasonRequest: a request was to be the last, by Request.Close, "Connection: close", or
	// http.Transport.DisableKeepAlives.
	ReasonRequest
	// ReasonRefused: the peer refused streams that were alone on the connection.
	ReasonRefused
	// ReasonExhausted: the stream identifiers are used up.
	ReasonExhausted
	// ReasonResolve: Transport.Resolve does not return the address any more.
	ReasonResolve
	// ReasonDialFailed: there is no transport connection. Dialling failed, or the proxy refused.
	ReasonDialFailed
	// ReasonHandshakeFailed: TLS failed, or is too weak for HTTP/2 (RFC 9113 §9.2).
	ReasonHandshakeFailed
)

var connReasons = []string{
	ReasonGoAway:          "goaway",
	ReasonLost:            "lost",
	ReasonPingTimeout:     "ping_timeout",
	ReasonTimeout:         "timeout",
	ReasonError:           "error",
	ReasonClosed:          "closed",
	ReasonIdle:            "idle",
	ReasonSurplus:         "surplus",
	ReasonCloseIdle:       "close_idle",
	ReasonAge:             "age",
	ReasonRequest:         "request",
	ReasonRefused:         "refused",
	ReasonExhausted:       "exhausted",
	ReasonResolve:         "resolve",
	ReasonDialFailed:      "dial_failed",
	ReasonHandshakeFailed: "handshake_failed",
}

// String returns a word for logs and labels, such as "goaway" or "ping_timeout".
func (r ConnReason) String() string { return word("ConnReason", connReasons, uint8(r)) }

// word returns the word for a value, as far as there is one.
func word(name string, words []string, value uint8) string {
	switch {
	case int(value) >= len(words):
		return fmt.Sprintf("%s(%d)", name, value)
	case words[value] == "":
		return "none"
	}
	return words[value]
}

// maxEvents is how many events may wait for OnConn before new connections are not told of.
const maxEvents = 1000

// An eventQueue holds the events that OnConn has not been called for, in their order. Its lock is
// the last to be taken.
type eventQueue struct {
	mu        sync.Mutex
	waiting   []ConnEvent
	delivered bool // by a goroutine that runs
	lost      int64
}

// tell queues e for OnConn. Where too many wait it is lost, unless it must not be: what follows on an
// event that was queued. It reports whether it was queued. It may be called with any lock.
func (b *book) tell(e ConnEvent, must bool) bool {
	t := b.t
	if t.OnConn == nil {
		return false
	}
	e.Time, e.Host, e.Proxy = time.Now(), b.name.origin, b.name.proxy
	q := &t.books.events
	q.mu.Lock()
	defer q.mu.Unlock()
	if !must && len(q.waiting) >= maxEvents {
		q.lost++
		return false
	}
	q.waiting = append(q.waiting, e)
	if !q.delivered {
		q.delivered = true
		go t.deliver()
	}
	return true
}

// deliver calls OnConn for what is queued. It runs on a goroutine of its own, which ends with the
// last event. A call that ends the goroutine does not end the delivery.
func (t *Transport) deliver() {
	over := false
	defer func() {
		if !over {
			go t.deliver()
		}
	}()
	for {
		e, ok := t.books.events.next()
		if !ok {
			over = true
			return
		}
		t.OnConn(e)
	}
}

// next takes the first event. If there is none, delivery is over.
func (q *eventQueue) next() (e ConnEvent, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.waiting, q.delivered = nil, false
		return e, false
	}
	e, q.waiting[0] = q.waiting[0], ConnEvent{}
	q.waiting = q.waiting[1:]
	return e, true
}

func (q *eventQueue) lostEvents() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}
