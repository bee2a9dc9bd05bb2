package pool

// A Member is what a host knows of one of its connections. The host's lock guards it.
type Member struct {
	answers   int64 // responses received
	refusals  int   // requests refused since the last response
	quota     int64 // limit of requests in all; 0: no limit is known
	chargedAt int64 // Record.answers at the last charge, plus 1; 0: none yet
}

// WasUseful reports whether a response was received.
func (m *Member) WasUseful() bool { return m.answers > 0 }

// HasQuota reports whether there is a limit of requests in all.
func (m *Member) HasQuota() bool { return m.quota > 0 }

// Allowed returns how many requests may be sent on the connection in all, or 0 for no limit. If it
// has responded to as many requests as the last connection did before its GOAWAY, one more is
// allowed, to find out whether it continues.
func (m *Member) Allowed() int64 {
	if m.quota > 0 && m.answers >= m.quota {
		return m.answers + 1
	}
	return m.quota
}
