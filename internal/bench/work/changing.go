package work

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"

	"gohyper.dev/hyper"
)

// A changingClient sends fields that change with each request, beside those of -fields that stay:
// a trace id, a time, a token, and a query in the path.
type changingClient struct {
	client
	kept hyper.Header
	sent atomic.Uint64
}

// changes returns the values for the next request.
func (c *changingClient) changes() (trace, time, token, query string) {
	n := c.sent.Add(1)
	var id [24]byte
	for i := range 3 {
		// The constant is that of the golden ratio: it spreads the bits.
		binary.BigEndian.PutUint64(id[8*i:], (n+uint64(i)<<40)*0x9e3779b97f4a7c15)
	}
	text := hex.EncodeToString(id[:])
	number := strconv.FormatUint(1_700_000_000_000+n, 10)
	return "00-" + text[:32] + "-" + text[32:] + "-01", number, "Bearer " + text, "?id=" + number
}

// get sends a GET request.
func (c *changingClient) get(t target) (io.ReadCloser, error) {
	trace, time, token, query := c.changes()
	if own, ok := c.client.(*own); ok {
		h := make(hyper.Header, len(c.kept), len(c.kept)+3)
		copy(h, c.kept)
		h = append(h, hyper.Field{Name: "traceparent", Value: trace},
			hyper.Field{Name: "x-request-start", Value: time},
			hyper.Field{Name: "authorization", Value: token})
		return ownBody(own.conn.Do(context.Background(), &hyper.Request{Path: t.path + query, Header: h}))
	}
	types := c.client.(*types)
	req, err := http.NewRequestWithContext(context.Background(), "GET", t.url+query, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range types.header {
		req.Header[name] = values
	}
	req.Header["Traceparent"] = []string{trace}
	req.Header["X-Request-Start"] = []string{time}
	req.Header["Authorization"] = []string{token}
	return types.send(req)
}
