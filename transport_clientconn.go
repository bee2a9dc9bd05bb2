package hyper

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// A clientConn is a connection that http.Transport.NewClientConn made. http.ClientConn calls its
// methods.
type clientConn struct {
	conn *Conn
	// pool provides what a request needs. The connection does not belong to the pool.
	pool *Transport

	mu       sync.Mutex
	reserved int // slots that Reserve has taken and that no request has used
}

// newClientConn uses HTTP/2 on nc. stateHook is called when a request ends, when the limit of
// streams changes, and when the connection stops taking requests.
func (c *configured) newClientConn(nc net.Conn, stateHook func()) (http.RoundTripper, error) {
	pool, err := c.transport()
	if err != nil {
		nc.Close()
		return nil, err
	}
	conn, err := newConn(context.Background(), nc, pool.base, &owner{news: stateHook})
	if err != nil {
		return nil, err
	}
	conn.lock()
	conn.slots.tellFree.each = true
	conn.unlock()
	return &clientConn{conn: conn, pool: pool}, nil
}

// RoundTrip sends req in a reserved slot. If none is reserved, it waits for a slot.
func (c *clientConn) RoundTrip(req *http.Request) (*http.Response, error) {
	made := false
	defer func() { // the function of WithRequest may panic
		if !made {
			c.Release()
		}
	}()
	x, err := newExchange(req, c.pool.DisableCompression)
	if err != nil {
		return nil, err
	}
	made = true
	failure := errNotReturned
	defer x.endUnlessReturned(&failure)
	slot := waitForSlot
	if c.takeReserved() {
		slot = haveSlot
	}
	x.setHeaderTimeout(c.pool.ResponseHeaderTimeout)
	x.closeConn = x.closeConn || !c.pool.keepsAlive()
	resp, err := x.attempt(c.conn, slot)
	if err == errNoSlot { // the peer lowered its limit, so the reserved slot is gone
		resp, err = x.attempt(c.conn, waitForSlot)
	}
	failure = err
	if err != nil {
		return nil, x.fail(err)
	}
	return resp, nil
}

// takeReserved takes a reserved slot, and reports whether there was one.
func (c *clientConn) takeReserved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reserved == 0 {
		return false
	}
	c.reserved--
	return true
}

// Reserve takes a slot for the next request.
func (c *clientConn) Reserve() error {
	if err := c.conn.reserve(0, 0); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved++
	return nil
}

// Release returns a slot that Reserve has taken.
func (c *clientConn) Release() {
	if c.takeReserved() {
		c.conn.release()
	}
}

// Available returns how many requests could be sent without waiting.
func (c *clientConn) Available() int { return c.conn.Available() }

// InFlight returns how many requests are in progress or have a reserved slot.
func (c *clientConn) InFlight() int {
	if used, _ := c.conn.load(); c.conn.Err() == nil {
		return used
	}
	return 0
}

// Err returns why the connection accepts no more requests, or nil.
func (c *clientConn) Err() error {
	_, err := c.conn.load()
	return err
}

// Close ends the connection and the requests on it.
func (c *clientConn) Close() error { return c.conn.Close() }
