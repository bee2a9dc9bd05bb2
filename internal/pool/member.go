package pool

import "time"

const (
	YieldTime  = time.Second     // for which a connection gets no new requests
	yieldAgain = 5 * time.Second // until the same connection may be chosen again
)

// A Member is what a host knows of one of its connections.
type Member struct {
	Addr     *Addr     // the address that was dialed; nil: the host itself was dialed
	RetireAt time.Time // when it stops taking requests; zero: never
	Spare    bool      // no request waited for it when it was made

	load      int       // streams; set by Conns.readLoads
	usedAt    uint64    // value of Conns.uses at the last request
	yieldedAt time.Time // when it last began to make room for another host; zero: never

	answers   int64 // responses received
	refusals  int   // requests refused since the last response
	quota     int64 // limit of requests in all; 0: no limit is known
	chargedAt int64 // Record.answers at the last charge, plus 1; 0: none yet
}

// Yield keeps new requests from the connection for YieldTime, so that it becomes idle and makes
// room for another host.
func (m *Member) Yield() { m.yieldedAt = time.Now() }

// yields reports whether the connection gets no new requests at present because of Yield.
func (m *Member) yields() bool { return !m.yieldedAt.IsZero() && time.Since(m.yieldedAt) < YieldTime }

// retired reports whether the connection is too old for further requests.
func (m *Member) retired() bool { return !m.RetireAt.IsZero() && !time.Now().Before(m.RetireAt) }

// allowed returns how many requests may be sent on the connection in all, or 0 for no limit. If it
// has responded to as many requests as the last connection did before its GOAWAY, one more is
// allowed, to find out whether it continues.
func (m *Member) allowed() int64 {
	if m.quota > 0 && m.answers >= m.quota {
		return m.answers + 1
	}
	return m.quota
}
