package hyper

import (
	"fmt"
	"sync"
	"time"
)

// A ConnEvent is a step in the life of a connection of a Transport. It is passed to
// Transport.OnConn.
type ConnEvent struct {
	Kind   ConnEventKind
	Time   time.Time  // when it happened, which may be before the call
	Host   string     // the origin that the connection is for, such as "https://example.com:8443"
	Proxy  string     // the URL of the proxy, without user and password; empty: none
	Conn   *Conn      // nil for ConnFailed
	Reason ConnReason // why; 0 for ConnOpened

	// Err is the error of the event. For ConnClosed, it is the result of Conn.Err. For ConnFailed,
	// it says why there is no connection. For ConnDraining, it is the peer's GOAWAY as a
	// *ConnError, or nil if none was received.
	Err error
}

// A ConnEventKind says what happened to a connection.
type ConnEventKind uint8

const (
	ConnOpened   ConnEventKind = iota + 1 // it was made; the peer's SETTINGS have not arrived yet
	ConnDraining                          // it takes no more requests, but still has streams
	ConnClosed                            // it has ended, and its socket is closed
	ConnFailed                            // it could not be made
)

// connEventKinds has the words that String returns.
var connEventKinds = []string{
	ConnOpened: "opened", ConnDraining: "draining", ConnClosed: "closed", ConnFailed: "failed",
}

// String returns a word: "opened", "draining", "closed" or "failed".
func (k ConnEventKind) String() string { return word("ConnEventKind", connEventKinds, uint8(k)) }

// A ConnReason says why a connection drains, was closed, or could not be made.
type ConnReason uint8

const (
	// ReasonGoAway: the peer sent GOAWAY.
	ReasonGoAway ConnReason = iota + 1
	// ReasonLost: the peer or the network closed the connection.
	ReasonLost
	// ReasonPingTimeout: the peer did not acknowledge a PING in time.
	ReasonPingTimeout
	// ReasonTimeout: the peer did not send or acknowledge SETTINGS in time, or it stopped reading.
	ReasonTimeout
	// ReasonError: this side sent GOAWAY with an error, because the peer violated the protocol or a
	// window manager failed.
	ReasonError
	// ReasonClosed: Conn.Close or Conn.Shutdown was called.
	ReasonClosed
	// ReasonIdle: the connection had no streams for Transport.IdleConnTimeout.
	ReasonIdle
	// ReasonSurplus: the connection was beyond MaxConns or MaxIdleConns, or beyond
	// MaxIdleConnsPerHost of an http.Transport.
	ReasonSurplus
	// ReasonCloseIdle: CloseIdleConnections was called.
	ReasonCloseIdle
	// ReasonAge: the connection has reached Transport.MaxConnAge.
	ReasonAge
	// ReasonRequest: a request was the last one of the connection because of Request.Close,
	// "Connection: close", or http.Transport.DisableKeepAlives.
	ReasonRequest
	// ReasonRefused: the peer refused streams although they were alone on the connection.
	ReasonRefused
	// ReasonExhausted: the stream identifiers are used up.
	ReasonExhausted
	// ReasonResolve: Transport.Resolve no longer returns the address of the connection.
	ReasonResolve
	// ReasonDialFailed: there is no transport connection, because dialing failed or the proxy
	// refused the tunnel.
	ReasonDialFailed
	// ReasonHandshakeFailed: TLS failed, or is too weak for HTTP/2 (RFC 9113 §9.2).
	ReasonHandshakeFailed
)

// connReasons has the words that String returns.
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

// word returns the word for value, or name with the number if there is no word.
func word(name string, words []string, value uint8) string {
	switch {
	case int(value) >= len(words):
		return fmt.Sprintf("%s(%d)", name, value)
	case words[value] == "":
		return "none"
	}
	return words[value]
}

// maxEvents is how many events may wait for OnConn. Beyond it, events for new connections are
// dropped.
const maxEvents = 1000

// An eventQueue holds the events that OnConn has not been called with, in their order. Its lock is
// taken after all others.
type eventQueue struct {
	mu        sync.Mutex
	waiting   []ConnEvent
	delivered bool // a goroutine is delivering the events
	lost      int64
}

// tell queues e for OnConn, and reports whether it did. If too many events wait, e is dropped,
// unless must is set. must is set for an event that follows one that was queued. The caller may
// hold any lock.
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

// deliver calls OnConn for the queued events. It runs in its own goroutine, which ends after the
// last event. If OnConn ends the goroutine, another one continues.
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

// next removes and returns the first event. If there is none, ok is false and the delivery ends.
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

// lostEvents returns how many events were dropped.
func (q *eventQueue) lostEvents() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}
