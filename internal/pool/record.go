package pool

import (
	"math/rand/v2"
	"time"

	"gohyper.dev/hyper/internal/bucket"
)

// Limits of the attempts of one request.
const (
	MaxTries  = 5   // attempts in a row during which the host responded to nothing
	MostTries = 100 // attempts in all, even if the host responds to others
)

// Limits of what a host may cause.
const (
	RetryBurst = 100  // causes of retries that a host may have at once; each response adds one
	maxRetries = 1000 // upper bound of the budget
	retryRate  = 10   // causes a second beyond the budget: further retries are that far apart

	// MaxDialPause is the longest pause before the next dial after connections that ended without a
	// response.
	MaxDialPause = 5 * time.Second

	CapacityMemory  = 5 * time.Minute // how long a capacity is remembered without a connection
	CapacityDoubles = time.Second     // time without a refusal until twice as many streams are tried
	capacityForgets = 1000            // a limit of as many streams or requests is not worth remembering
)

// A Record is what was learned of a host from its responses, its refusals and the ends of its
// connections. From that it decides when a request is sent again, when a connection is made again,
// and how much is sent on one connection.
//
// The reason for a refusal is either the request or the host. If the host responds to other
// requests in the meantime, its capacity is too small: the Record learns the capacity from the
// refusals, and the request is retried until it has had MostTries attempts. If the host responds to
// nothing, the request fails after MaxTries attempts. Each cause of retries is charged to a budget
// once: a connection that ended, or a connection that refused any number of streams between two
// responses.
type Record struct {
	// Limit is the SETTINGS_MAX_CONCURRENT_STREAMS of the last connection. 0: none was received.
	Limit uint32

	budget   budget
	capacity capacity
	answers  int64 // responses of the host so far

	failures  int       // consecutive connections that ended without a response
	dialAfter time.Time // no connection is dialed before this
	lostAt    time.Time // when the host last lost a connection
}

// newRecord returns the Record of a host of which nothing is known.
func newRecord() Record { return Record{budget: newBudget()} }

// A Fate is the state of a connection that has turned a request away.
type Fate struct {
	Processed int64 // number of requests that the peer has processed, if a GOAWAY said so
	Others    int   // number of other streams
	Ended     bool  // the connection takes no more requests
}

// A Verdict is what is to be done about a request that was turned away.
type Verdict struct {
	Again   bool          // it is sent again
	Delay   time.Duration // pause before that
	Replace bool          // the connection is to be replaced: call Record.Replaced
}

// Tries are the attempts of one request. The zero value has none.
type Tries struct {
	n         int32
	fruitless int32 // consecutive attempts during which the host responded to nothing
	answers   int64 // Record.answers when the last attempt failed
}

// isLearned reports whether the host was seen to serve less than its SETTINGS allow.
func (r *Record) isLearned() bool { return r.capacity.streams > 0 || r.capacity.requests > 0 }

// DialPause returns how long to wait before the next dial.
func (r *Record) DialPause() time.Duration { return max(0, time.Until(r.dialAfter)) }

// pauseDials delays the next dial by d.
func (r *Record) pauseDials(d time.Duration) { r.dialAfter = time.Now().Add(d) }

// remembered returns for how much longer the Record has to be remembered if the host has no
// connections. A Limit of limit or more is not worth it.
func (r *Record) remembered(limit uint32) time.Duration {
	left := time.Until(r.dialAfter)
	if r.Limit > 0 && r.Limit < limit || r.isLearned() {
		left = max(left, time.Until(r.lostAt.Add(CapacityMemory)))
	}
	return left
}

// Opened is called for each new connection of the host.
func (r *Record) Opened(m *Member) { m.quota = r.capacity.requests }

// Grow does what a response does for the capacity, for hosts that send none for a long time. It
// reports whether a limit of streams is still known.
func (r *Record) Grow() (limited bool) {
	r.capacity.grow(r.Limit)
	return r.capacity.streams > 0
}

// lost is called for each connection that no longer takes requests. limit is its
// SETTINGS_MAX_CONCURRENT_STREAMS.
func (r *Record) lost(limit uint32) { r.Limit, r.lostAt = limit, time.Now() }

// useless is called for a connection that ended without a response, and that this side did not
// close. If there are two or more in a row, the next dial is delayed.
func (r *Record) useless() {
	if r.failures++; r.failures > 1 {
		r.pauseDials(min(MaxDialPause, 50*time.Millisecond<<min(r.failures-2, 10)))
	}
}

// Answered counts a response from the connection of m. It reports whether the response may have
// made room for a request that waits.
func (r *Record) Answered(m *Member) (room bool) {
	r.budget.events.Add(1)
	r.answers++
	r.failures, m.refusals = 0, 0
	m.answers++
	r.capacity.grow(r.Limit)
	if m.quota == 0 {
		return false
	}
	if m.answers > m.quota { // it has responded to more requests than the last one, and has not ended
		m.quota *= 2
		r.capacity.requests = m.quota
	}
	if m.quota >= capacityForgets {
		m.quota, r.capacity.requests = 0, 0
	}
	return m.answers >= m.quota
}

// Refused records that the connection of m has turned a request away, and decides about the next
// attempt. t are the attempts of the request.
func (r *Record) Refused(t *Tries, m *Member, f Fate) (v Verdict) {
	t.n++
	if t.fruitless++; r.answers > t.answers {
		t.fruitless = 1
	}
	t.answers = r.answers
	if f.Ended {
		r.capacity.endedAfter(f.Processed)
	} else {
		r.capacity.refusedBeside(f.Others)
		// A connection that refuses streams that are alone on it is replaced, unless the connection
		// before it was no better.
		m.refusals++
		v.Replace = f.Others == 0 && m.refusals >= 2 && r.failures == 0
	}
	if t.fruitless >= MaxTries || t.n >= MostTries {
		return v
	}
	v.Again = true
	if t.n > 1 && f.Processed == 0 || !f.Ended {
		v.Delay = retryDelay(int(t.fruitless))
	}
	if m.chargedAt != r.answers+1 {
		m.chargedAt = r.answers + 1
		if wait := r.budget.charge(); t.n > 1 {
			v.Delay = max(v.Delay, wait)
		}
	}
	return v
}

// Replaced records that a connection is replaced, as Refused has decided.
func (r *Record) Replaced() { r.failures++ }

// Left returns how many causes of retries the host has left.
func (r *Record) Left() int { return r.budget.events.Left() }

// retryDelay returns how long to wait after the given number of attempts: 50 ms, doubled for each
// further attempt, plus up to half of that at random.
func retryDelay(tries int) time.Duration {
	d := 50 * time.Millisecond << (tries - 1)
	return d + rand.N(d/2)
}

// A capacity is what a host was seen to serve, if that is less than its SETTINGS allow.
type capacity struct {
	streams  int       // concurrent streams on one connection; 0: as many as SETTINGS allow
	since    time.Time // when streams was found
	requests int64     // requests in all on one connection; 0: no limit is known
}

// grow allows twice as many streams if the host has refused none for some time. limit is the limit
// in SETTINGS; 0 means that none is known.
func (k *capacity) grow(limit uint32) {
	if k.streams == 0 || time.Since(k.since) < CapacityDoubles {
		return
	}
	k.streams, k.since = 2*k.streams, time.Now()
	if k.streams >= capacityForgets || limit > 0 && int64(k.streams) >= int64(limit) {
		k.streams = 0
	}
}

// endedAfter is called for a connection that ended after it had processed that many requests. At
// first, the next connection is not sent more.
func (k *capacity) endedAfter(processed int64) {
	if processed > 0 && processed < capacityForgets {
		k.requests = processed
	}
}

// refusedBeside is called when a stream was refused that was beside that many others.
func (k *capacity) refusedBeside(others int) {
	if most := max(1, others); k.streams == 0 || most <= k.streams {
		k.streams, k.since = most, time.Now()
	}
}

// A budget limits the retries to a host.
type budget struct {
	events bucket.Bucket
	since  time.Time // start of the bucket's time
	next   time.Time // earliest time of the next retry, once the bucket is empty
}

// newBudget returns a full budget.
func newBudget() budget {
	return budget{events: bucket.New(RetryBurst, maxRetries, retryRate), since: time.Now()}
}

// charge takes one cause from the budget, and returns how long the retry has to wait.
func (b *budget) charge() time.Duration {
	now := time.Now()
	if b.events.Take(now.Sub(b.since), 1) {
		return 0
	}
	if b.next.Before(now) {
		b.next = now
	}
	b.next = b.next.Add(time.Second / retryRate)
	return b.next.Sub(now)
}
