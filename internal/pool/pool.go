// Package pool decides for the connections to many hosts: which request is next, which connection
// serves a request, when another one is made, how often a request is sent again, and which
// connections are closed because there are too many.
//
// Nothing here dials, closes or reports anything: the package that uses this one acts on what is
// decided here. It has a Host for each host, and a lock that guards it. A Pool, a Bound and a
// Throttle are for all hosts, and have their own locks.
//
// Connections are a type parameter, so that the tests need none.
package pool

import (
	"sync"
	"time"
)

// A Pool holds hosts by key. A host is kept while something uses it, and while something about it
// has to be remembered. Otherwise a crawler would accumulate hosts. H is the type of hosts. The
// zero value is empty.
//
// A Pool has its own lock, which is taken before a host's.
type Pool[K comparable, H Kept[K]] struct {
	mu    sync.Mutex // guards hosts, and the Use of each host
	hosts map[K]H
}

// A Kept is a host that a Pool keeps. The methods are called with the Pool's lock held.
type Kept[K comparable] interface {
	comparable

	// Use returns what the Pool knows of the host. It is always the same.
	Use() *Use[K]

	// Remembered returns for how much longer the host has to be remembered although nothing uses
	// it. If it returns false, the host has to be kept: it calls Pool.Review when that may be over.
	Remembered() (left time.Duration, ok bool)

	// Forgotten is called when the host is in the Pool no more.
	Forgotten()
}

// A Use is what a Pool knows of a host.
type Use[K comparable] struct {
	key   K
	users int  // callers of Enter that have not called Leave
	later bool // a timer will review the host
}

// Enter returns the host for key, and counts the caller as a user of it. If there is none, it adds
// the host that add returns. The caller must call Leave.
func (p *Pool[K, H]) Enter(key K, add func() H) H {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, ok := p.hosts[key]
	if !ok {
		h = add()
		h.Use().key = key
		if p.hosts == nil {
			p.hosts = make(map[K]H)
		}
		p.hosts[key] = h
	}
	h.Use().users++
	return h
}

// Leave undoes Enter.
func (p *Pool[K, H]) Leave(h H) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.Use().users--
	p.review(h)
}

// Review removes h if it need not be kept.
func (p *Pool[K, H]) Review(h H) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.review(h)
}

// review is Review with the lock held.
func (p *Pool[K, H]) review(h H) {
	u := h.Use()
	if u.users > 0 || u.later || p.hosts[u.key] != h {
		return
	}
	left, ok := h.Remembered()
	switch {
	case !ok:
	case left <= 0:
		delete(p.hosts, u.key)
		h.Forgotten()
	default:
		u.later = true
		time.AfterFunc(left, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			u.later = false
			p.review(h)
		})
	}
}

// All returns the hosts in no particular order.
func (p *Pool[K, H]) All() []H {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]H, 0, len(p.hosts))
	for _, h := range p.hosts {
		list = append(list, h)
	}
	return list
}

// Len returns the number of hosts.
func (p *Pool[K, H]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.hosts)
}

// Users returns how many callers use h.
func (p *Pool[K, H]) Users(h H) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return h.Use().users
}

// shrunk returns list, or nil if it is empty, so that its memory is released.
func shrunk[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}
