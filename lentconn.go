package hyper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// ConfigureTransport makes t speak HTTP/2 through hyper wherever a server agrees to that, and leaves all else as it is: t's
// dialer, proxy and TLS configuration make the connections, and t keeps them: its CloseIdleConnections ends them when their
// streams are over, and so does its IdleConnTimeout, 90 s where that is 0. cfg may be nil; its DialContext and TLS
// are not used. t must not have been used yet. A nil t is a panic.
func ConfigureTransport(t *http.Transport, cfg *Config) error {
	mustHave(t != nil, "ConfigureTransport", "*http.Transport")
	if t.TLSNextProto["h2"] != nil {
		return errors.New("hyper: http.Transport.TLSNextProto has an entry for h2 already")
	}
	base := cfg.clone()
	if _, err := base.withDefaults(); err != nil {
		return err
	}
	base.TLS, base.DialContext = nil, nil
	lent := &lentConns{}
	if err := lent.register(t); err != nil {
		return err
	}
	if t.TLSNextProto == nil {
		t.TLSNextProto = make(map[string]func(string, *tls.Conn) http.RoundTripper)
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.NextProtos = []string{"h2", "http/1.1"}
	t.TLSNextProto["h2"] = func(authority string, tc *tls.Conn) http.RoundTripper {
		given := base
		given.Authority, given.TrimBlanks = or(given.Authority, authority), true
		c, err := NewConn(context.Background(), tc, &given)
		if err != nil {
			return failedConn{err}
		}
		if timeout := or(t.IdleConnTimeout, defaultIdleTimeout); timeout > 0 {
			c.drainWhenIdle(timeout)
		}
		lent.add(c)
		return lentConn{c, t}
	}
	return nil
}

// lentConns are the connections that an http.Transport keeps. It closes none of them: it forgets them, and tells who has
// registered for https in a certain form.
type lentConns struct {
	mu    sync.Mutex
	conns []*Conn
}

// A lentRegistry is that form: a struct whose one exported field has CloseIdleConnections (golang/go#22891).
type lentRegistry struct{ Conns *lentConns }

// RoundTrip leaves every request to the http.Transport.
func (lentRegistry) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, http.ErrSkipAltProtocol
}

func (l *lentConns) register(t *http.Transport) (err error) {
	defer func() {
		if taken := recover(); taken != nil { // RegisterProtocol has no other way to say it
			err = fmt.Errorf("hyper: http.Transport: %v", taken)
		}
	}()
	t.RegisterProtocol("https", lentRegistry{l})
	return nil
}

func (l *lentConns) add(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = slices.DeleteFunc(l.conns, func(c *Conn) bool {
		_, err := c.load()
		return err != nil
	})
	l.conns = append(l.conns, c)
}

// CloseIdleConnections drains all connections, as the http.Transport has just forgotten them.
func (l *lentConns) CloseIdleConnections() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for _, c := range conns {
		c.drain()
	}
}

// A lentConn is a connection that an http.Transport keeps. When it takes no more requests, it says so in the way that
// makes its keeper find another one.
type lentConn struct {
	c *Conn
	t *http.Transport
}

func (l lentConn) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	x, err := newExchange(req, l.t.DisableCompression)
	if err != nil {
		return nil, err
	}
	x.roams = true
	err = errNotReturned
	defer x.endUnlessReturned(&err)
	resp, err = x.on(l.c, inTurn)
	if err == nil {
		return resp, nil
	}
	if _, gone := l.c.load(); gone == nil || err != errNoSlot && !Retryable(err) {
		return nil, x.fail(err)
	}
	if !x.body.takeBack() {
		x.body.closeWithin(closeGrace)
	}
	return nil, goneError{err} // with the body as it is, net/http needs no GetBody
}

// Close is called by the http.Transport of Go 1.27 when it forgets the connection, with requests in progress or without.
func (l lentConn) Close() error {
	l.c.drain()
	return nil
}

type goneError struct{ error }

func (e goneError) Unwrap() error { return e.error }

// IsHTTP2NoCachedConnError marks the error for net/http.
func (goneError) IsHTTP2NoCachedConnError() {}

// A failedConn is a connection that came to nothing.
type failedConn struct{ err error }

func (f failedConn) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, f.err
}
