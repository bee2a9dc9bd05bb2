package work

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"gohyper.dev/hyper"
)

// A client sends requests on one connection. The caller closes the bodies.
type client interface {
	get(t target) (io.ReadCloser, error)
	post(t target, body io.Reader, size int64) (io.ReadCloser, error)
	close()
}

// A target is what to request, in the forms that clients need.
type target struct{ url, origin, path string }

// parseTarget returns the target of a URL.
func parseTarget(rawURL string) (t target, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return t, err
	}
	return target{rawURL, u.Scheme + "://" + u.Host, u.RequestURI()}, nil
}

// newClient returns a client of the implementation -impl. hyper's API connects at once, the others
// with the first request.
func (o *options) newClient() (client, error) {
	c, err := o.plainClient()
	if err != nil || !o.changing {
		return c, err
	}
	return &changingClient{client: c, kept: o.header()}, nil
}

// plainClient returns a client with requests that do not change.
func (o *options) plainClient() (client, error) {
	switch o.impl {
	case "floor", "floortypes":
		return o.floorClient()
	case "own":
		conn, err := hyper.Dial(context.Background(), o.target.origin, o.config())
		if err != nil {
			return nil, err
		}
		return &own{conn, o.header()}, nil
	case "reused":
		conn, err := hyper.Dial(context.Background(), o.target.origin, o.config())
		if err != nil {
			return nil, err
		}
		return &reused{own{conn, o.header()}, o.target.path}, nil
	case "http":
		c := &http.Client{Transport: &hyper.Transport{Config: o.config(), MaxConnsPerHost: 1}}
		return &types{c.Do, c.CloseIdleConnections, o.header().HTTP()}, nil
	case "roundtrip":
		t := &hyper.Transport{Config: o.config(), MaxConnsPerHost: 1}
		return &types{t.RoundTrip, t.CloseIdleConnections, o.header().HTTP()}, nil
	case "nethttp":
		c := &http.Client{Transport: o.netHTTP()}
		return &types{c.Do, c.CloseIdleConnections, o.header().HTTP()}, nil
	case "xnet":
		c := &http.Client{Transport: o.xNet()}
		return &types{c.Do, c.CloseIdleConnections, o.header().HTTP()}, nil
	case "grpc":
		return o.newGRPC()
	}
	return nil, fmt.Errorf("no implementation %q", o.impl)
}

// header returns the fields that -fields asks for.
func (o *options) header() (h hyper.Header) {
	for i := range o.fields {
		h.Add(fmt.Sprintf("x-bench-%03d", i), fmt.Sprintf("the value of field %d", i))
	}
	return h
}

// sessions are the TLS sessions of -resume. They outlive the connections.
var sessions = tls.NewLRUClientSessionCache(64)

// config returns hyper's configuration.
func (o *options) config() *hyper.Config {
	cfg := &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true}, MaxFrameSize: o.frame}
	if o.resume {
		cfg.TLS.ClientSessionCache = sessions
	}
	if o.wire {
		cfg.DialContext = dialCounted
	}
	return cfg
}

// netHTTP returns a Transport of net/http that is limited to one connection, as the others are.
func (o *options) netHTTP() *http.Transport {
	t := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{StrictMaxConcurrentRequests: true, MaxReadFrameSize: o.frame},
	}
	if o.resume {
		t.TLSClientConfig.ClientSessionCache = sessions
	}
	if o.wire {
		t.DialContext = dialCounted
	}
	return t
}

// own is a client that uses hyper's API.
type own struct {
	conn   *hyper.Conn
	header hyper.Header // of each GET
}

// get sends a GET request.
func (c *own) get(t target) (io.ReadCloser, error) {
	if len(c.header) > 0 {
		return ownBody(c.conn.Do(context.Background(), &hyper.Request{Path: t.path, Header: c.header}))
	}
	return ownBody(c.conn.Get(context.Background(), t.path))
}

// post sends a POST request with a body of size bytes.
func (c *own) post(t target, body io.Reader, size int64) (io.ReadCloser, error) {
	return ownBody(c.conn.Do(context.Background(),
		&hyper.Request{Method: "POST", Path: t.path, Body: body, ContentLength: size}))
}

// close closes the connection.
func (c *own) close() { c.conn.Close() }

// A reused is a client that uses hyper's API with memory for each caller.
type reused struct {
	own
	path string
}

// caller implements ownLoop.
func (c *reused) caller() func() (int64, error) {
	k, buf := &hyper.Caller{Conn: c.conn}, make([]byte, 2048)
	return func() (int64, error) {
		body, err := ownBody(k.Do(context.Background(), &hyper.Request{Path: c.path, Header: c.header}))
		if err != nil {
			return 0, err
		}
		return drain(body, buf)
	}
}

// ownBody returns the body of a response with status 200.
func ownBody(resp *hyper.Response, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 200 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Body, nil
}

// types is a client that uses net/http's types.
type types struct {
	roundTrip func(*http.Request) (*http.Response, error)
	closeIdle func()
	header    http.Header // of each GET
}

// get sends a GET request.
func (c *types) get(t target) (io.ReadCloser, error) { return c.do("GET", t, nil, 0) }

// post sends a POST request with a body of size bytes.
func (c *types) post(t target, body io.Reader, size int64) (io.ReadCloser, error) {
	return c.do("POST", t, body, size)
}

// do makes a request and sends it.
func (c *types) do(method string, t target, body io.Reader, size int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, t.url, body)
	if err != nil {
		return nil, err
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	req.ContentLength = size
	return c.send(req)
}

// send sends a request and returns the body of a response over HTTP/2 with status 200.
func (c *types) send(req *http.Request) (io.ReadCloser, error) {
	resp, err := c.roundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %s over %s", resp.Status, resp.Proto)
	}
	return resp.Body, nil
}

// close closes the idle connections.
func (c *types) close() { c.closeIdle() }
