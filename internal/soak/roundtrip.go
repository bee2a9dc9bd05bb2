package main

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"strconv"

	"gohyper.dev/hyper"
)

// roundTrip performs the exchange with net/http's types.
func (x *exchange) roundTrip(ctx context.Context, cancel func(), c *client) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "https://soak.test"+x.path(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Request", x.number())
	if x.echo {
		req.Header.Set("X-Echo", "1")
	}
	if x.how == "trailer" {
		req.Header.Set("Trailer", "X-Sum")
	}
	if x.kind == "up" {
		x.addHTTPBody(req)
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		return err
	}
	own, _ := hyper.ResponseFromHTTP(resp)
	a := &answer{
		status: resp.StatusCode, length: resp.ContentLength, decoded: resp.Uncompressed,
		field: resp.Header.Get, body: resp.Body,
		sum: func() string { return resp.Trailer.Get("X-Sum") }, own: own,
	}
	err = x.check(c, a)
	for _, values := range resp.Header { // the caller owns it, and may change it
		for i := range values {
			values[i] = "spoiled by " + x.number()
		}
	}
	resp.Header.Set("X-Spoiled", x.number())
	return cmp.Or(err, x.finishAnswer(ctx, cancel, c, a))
}

// addHTTPBody adds the body that the plan says.
func (x *exchange) addHTTPBody(req *http.Request) {
	req.Method = "PUT"
	var own hyper.Request
	x.addBody(&own)
	req.Body, req.ContentLength = io.NopCloser(own.Body), -1
	switch x.how {
	case "length":
		req.ContentLength = x.size
	case "memory":
		req.ContentLength = int64(own.Body.(*bytes.Reader).Len())
	case "trailer":
		req.Trailer = http.Header{"X-Sum": {strconv.FormatInt(x.size, 10)}}
	}
}
