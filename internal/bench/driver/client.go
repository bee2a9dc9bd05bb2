package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
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
	case "http":
		return &bridge{http.Client{Transport: &hyper.Transport{Config: o.config(), MaxConnsPerHost: 1}}}, nil
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

// bridge is net/http's client with hyper's Transport.
type bridge struct{ client http.Client }

func (c *bridge) get(t target) (io.ReadCloser, error) { return c.do("GET", t, nil, 0) }

func (c *bridge) post(t target, body io.Reader, size int64) (io.ReadCloser, error) {
	return c.do("POST", t, body, size)
}

func (c *bridge) do(method string, t target, body io.Reader, size int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, t.url, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %s over %s", resp.Status, resp.Proto)
	}
	return resp.Body, nil
}

func (c *bridge) close() { c.client.CloseIdleConnections() }
