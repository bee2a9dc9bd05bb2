package hyper

import (
	"errors"
	"sync/atomic"
)

// A Monitor shows the connections of an http.Transport that ConfigureTransport has made speak
// HTTP/2: Config.Monitor takes one. A Transport needs none: it has these methods itself.
//
// The zero value is ready. One Monitor is for one http.Transport; it must not be copied. Any number
// of goroutines may use it.
type Monitor struct {
	// OnConn is as in Transport. It must not be changed after ConfigureTransport.
	OnConn func(ConnEvent)

	used atomic.Bool
	pool atomic.Pointer[Transport]
}

// Stats is Transport.Stats. All is zero before the first request.
func (m *Monitor) Stats() TransportStats {
	if pool := m.pool.Load(); pool != nil {
		return pool.Stats()
	}
	return TransportStats{}
}

// Conns is Transport.Conns. There are none before the first request. Connections of
// http.Transport.NewClientConn are its caller's, and not among them.
func (m *Monitor) Conns() []ConnInfo {
	if pool := m.pool.Load(); pool != nil {
		return pool.Conns()
	}
	return nil
}

// claim takes m for one http.Transport. Nil is none.
func (m *Monitor) claim() error {
	if m != nil && !m.used.CompareAndSwap(false, true) {
		return errors.New("hyper: Config.Monitor is another http.Transport's already")
	}
	return nil
}

// releaseOn is deferred, with the place of an error: where there is one, m may be used again.
func (m *Monitor) releaseOn(err *error) {
	if m != nil && *err != nil {
		m.used.Store(false)
	}
}

// watch makes m show pool, which no request has used yet.
func (m *Monitor) watch(pool *Transport) {
	if m != nil {
		pool.OnConn = m.OnConn
		m.pool.Store(pool)
	}
}
