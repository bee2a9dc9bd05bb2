package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/url"

	"gohyper.dev/hyper"
)

// A client does requests on one connection. Its bodies are closed by the caller.
type client interface {
	get(t target) (io.ReadCloser, error)
	post(t target, body io.Reader, size int64) (io.ReadCloser, error)
	close()
}

// A target is what to request, in the forms that clients need.
type target struct{ url, origin, path string }

func parseTarget(rawURL string) (t target, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return t, err
	}
	return target{rawURL, u.Scheme + "://" + u.Host, u.RequestURI()}, nil
}

// newClient connects, or will with the first request.
func (o *options) newClient() (client, error) {
	switch o.impl {
	case "own":
		conn, err := hyper.Dial(context.Background(), o.target.origin, o.config())
		return own{conn}, err
	}
	return nil, fmt.Errorf("no implementation %q", o.impl)
}

// sessions outlives the connections of -resume.
var sessions = tls.NewLRUClientSessionCache(64)

func (o *options) config() *hyper.Config {
	cfg := &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true}}
	if o.resume {
		cfg.TLS.ClientSessionCache = sessions
	}
	if o.wire {
		cfg.DialContext = dialCounted
	}
	return cfg
}

// own is hyper's API.
type own struct{ conn *hyper.Conn }

func (c own) get(t target) (io.ReadCloser, error) {
	return ownBody(c.conn.Get(context.Background(), t.path))
}

func (c own) post(t target, body io.Reader, size int64) (io.ReadCloser, error) {
	return ownBody(c.conn.Do(context.Background(), &hyper.Request{Method: "POST", Path: t.path, Body: body, ContentLength: size}))
}

func (c own) close() { c.conn.Close() }

func ownBody(resp *hyper.Response, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	if resp.Status != 200 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %d", resp.Status)
	}
	return resp.Body, nil
}
