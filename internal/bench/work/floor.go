package work

import (
	"errors"
	"io"
	"strings"

	"gohyper.dev/hyper/internal/bench/floor"
)

// An ownLoop is a client that does not use the interface client, because it has memory for
// each of them.
type ownLoop interface {
	// caller returns what one goroutine does for each request. It returns the length of the body.
	caller() func() (octets int64, err error)
}

// floorConn is the floor without an API: each caller has a floor.Call.
type floorConn struct{ *floor.Conn }

// caller implements ownLoop.
func (c floorConn) caller() func() (int64, error) {
	call := floor.NewCall(2048)
	return func() (int64, error) {
		n, err := c.Get(call)
		return int64(n), err
	}
}

// get does a GET, and does not return the body.
func (c floorConn) get(target) (io.ReadCloser, error) {
	_, err := c.Get(floor.NewCall(2048))
	return io.NopCloser(strings.NewReader("")), err
}

// post is not there.
func (c floorConn) post(target, io.Reader, int64) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// close closes the connection.
func (c floorConn) close() { c.Close() }

// floorClient returns the client of the implementation floor or floortypes.
func (o *options) floorClient() (client, error) {
	var d floor.Dialer
	if o.wire {
		d = dialCounted
	}
	addr := strings.TrimPrefix(o.target.origin, "https://")
	if o.impl == "floor" {
		c, err := floor.Dial(addr, o.target.path, o.callers, d)
		return floorConn{c}, err
	}
	t, err := floor.NewTransport(addr, o.callers, d)
	if err != nil {
		return nil, err
	}
	return &types{roundTrip: t.RoundTrip, closeIdle: t.Close, header: o.header().HTTP()}, nil
}

// floorDown measures large downloads of the floor.
func (o *options) floorDown() (figures, error) {
	addr := strings.TrimPrefix(o.target.origin, "https://")
	return o.cost(o.callers*o.requests, func() (octets int64, err error) {
		for range o.requests {
			n, err := floor.Down(addr, o.target.path, o.callers, nil)
			if err != nil {
				return octets, err
			}
			octets += n
		}
		return octets, nil
	})
}
