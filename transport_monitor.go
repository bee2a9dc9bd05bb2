package hyper

import (
	"errors"
	"sync/atomic"
)

// A Monitor shows the connections of an http.Transport that ConfigureTransport has configured for
// HTTP/2. It is passed in Config.Monitor. A Transport needs no Monitor, because it has the same
// methods itself.
//
// The zero value is ready for use. One Monitor is for one http.Transport, and must not be copied.
// It is safe for concurrent use by multiple goroutines.
type Monitor struct {
	// OnConn is as in Transport. It must not be changed after the call of ConfigureTransport.
	OnConn func(ConnEvent)

	used atomic.Bool
	pool atomic.Pointer[Transport]
}

// Stats is Transport.Stats. All figures are zero before the first request.
func (m *Monitor) Stats() TransportStats {
	if pool := m.pool.Load(); pool != nil {
		return pool.Stats()
	}
	return TransportStats{}
}

// Conns is Transport.Conns. The list is empty before the first request. Connections of
// http.Transport.NewClientConn belong to its caller and are not listed.
func (m *Monitor) Conns() []ConnInfo {
	if pool := m.pool.Load(); pool != nil {
		return pool.Conns()
	}
	return nil
}

// claim marks m as used by one http.Transport. It fails if m is used already. m may be nil.
func (m *Monitor) claim() error {
	if m != nil && !m.used.CompareAndSwap(false, true) {
		return errors.New("hyper: Config.Monitor is another http.Transport's already")
	}
	return nil
}

// releaseOn is deferred with a pointer to the error result of a function. If there is an error, m
// may be used again.
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
