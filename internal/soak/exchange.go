package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"gohyper.dev/hyper"
)

// An exchange is one request. It is planned completely before it is sent, so that every result can
// be explained.
type exchange struct {
	id    uint64
	rng   *rand.Rand // its worker's
	kind  string     // down, up or echo
	how   string     // what the server is asked to do
	http  bool       // through RoundTrip, with net/http's types
	echo  bool       // the response must contain the request's number
	seed  uint64
	size  int64
	slow  bool          // the client reads and writes in small parts
	stop  int64         // bytes of the response after which the client stops reading; -1: it reads all
	by    string        // how the client stops: close, reset or context
	after time.Duration // the context ends after this time; 0: never
}

// plan returns a random exchange.
func plan(rng *rand.Rand, id uint64) *exchange {
	x := &exchange{id: id, rng: rng, seed: rng.Uint64(), stop: -1}
	if rng.IntN(10) > 0 {
		x.size = int64(math.Exp2(23*rng.Float64())) - 1
		if rng.IntN(200) == 0 {
			x.size = 8 << 20
		}
	}
	switch n := rng.IntN(100); {
	case n < 60:
		x.kind, x.how = "down", pick(rng, "plain", "length", "gzip", "deflate", "push")
		if n < 3 {
			x.how = "abort"
		}
	case n < 85:
		x.kind, x.how = "up", pick(rng, "plain", "length", "memory", "trailer", "slow", "broken")
	default:
		x.kind, x.how = "echo", pick(rng, "plain", "trailer", "slow")
	}
	x.http = x.kind != "echo" && rng.IntN(2) == 0
	x.echo = rng.IntN(4) == 0
	x.slow = rng.IntN(20) == 0
	if x.slow || x.how == "slow" || x.how == "memory" {
		x.size = min(x.size, 128<<10)
	}
	switch rng.IntN(10) {
	case 0:
		x.stop, x.by = rng.Int64N(x.size+1), pick(rng, "close", "reset", "context")
	case 1:
		x.after = time.Duration(rng.Int64N(int64(20*time.Millisecond))) + 1
	}
	return x
}

// pick returns a random element of list.
func pick(rng *rand.Rand, list ...string) string { return list[rng.IntN(len(list))] }

// run performs the exchange on c. Wrong bytes and a wrong end are a mismatch. Any other error must
// have an explanation.
func (x *exchange) run(c *client) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), hangTimeout, errHung)
	defer cancel()
	if x.after > 0 {
		time.AfterFunc(x.after, cancel)
	}
	if x.http {
		return x.roundTrip(ctx, cancel, c)
	}
	req := &hyper.Request{Path: x.path(), Header: hyper.Header{{Name: "x-request", Value: x.number()}}}
	if x.echo {
		req.Header.Add("x-echo", "1")
	}
	if x.how == "trailer" {
		req.Header.Add("trailer", "x-sum") // net/http accepts only announced trailers
	}
	switch x.kind {
	case "up":
		req.Method = "PUT"
		x.addBody(req)
	case "echo":
		return x.duplex(ctx, cancel, c, req)
	}
	resp, err := c.Do(ctx, req)
	if err != nil {
		return err
	}
	return x.finish(ctx, cancel, c, resp)
}

// path returns the path of the request, which tells the server what to do.
func (x *exchange) path() string   { return fmt.Sprintf("/%s/%d/%d/%s", x.kind, x.seed, x.size, x.how) }
func (x *exchange) number() string { return strconv.FormatUint(x.id, 10) }

// The causes of errors that the exchange itself produces.
var (
	errHung   = errors.New("the exchange hangs")
	errBroken = errors.New("the body breaks off")
)

// breakOff is a reader that fails. It replaces the second half of a body that is broken off.
type breakOff struct{}

func (breakOff) Read([]byte) (int, error) { return 0, errBroken }

// addBody adds the body that the plan says.
func (x *exchange) addBody(req *hyper.Request) {
	var body io.Reader = &source{seed: x.seed, size: x.size}
	switch x.how {
	case "broken":
		body = io.MultiReader(io.LimitReader(body, x.size/2), breakOff{})
	case "length":
		req.ContentLength = x.size
	case "memory":
		octets, _ := io.ReadAll(body)
		req.Body = bytes.NewReader(octets)
		return
	case "trailer":
		req.Trailer = hyper.Header{{Name: "x-sum", Value: strconv.FormatInt(x.size, 10)}}
	}
	req.Body = struct{ io.Reader }{body} // hides all other methods
}

// duplex sends the body and reads the response concurrently.
func (x *exchange) duplex(ctx context.Context, cancel func(), c *client, req *hyper.Request) error {
	req.Method = "POST"
	s, err := c.Open(ctx, req)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- x.send(s) }()
	resp, err := s.Response(ctx)
	if err == nil {
		err = x.finish(ctx, cancel, c, resp)
	}
	s.Reset(hyper.ErrCodeCancel) // ends send if the exchange is not over
	sendErr := <-sent
	if x.stop >= 0 && errors.Is(sendErr, hyper.ErrCanceled) {
		sendErr = nil
	}
	return cmp.Or(err, sendErr)
}

// send sends the body and the trailers.
func (x *exchange) send(s *hyper.Stream) error {
	size := 32 << 10
	if x.slow {
		size = 4 << 10
	}
	if _, err := io.CopyBuffer(s, struct{ io.Reader }{&source{seed: x.seed, size: x.size}},
		make([]byte, size)); err != nil {
		return err
	}
	if x.how == "trailer" {
		return s.SendTrailers(hyper.Header{{Name: "x-sum", Value: strconv.FormatInt(x.size, 10)}})
	}
	return s.CloseWrite()
}

// An answer is a response of hyper or of net/http.
type answer struct {
	status  int
	length  int64
	decoded bool
	field   func(name string) string
	body    io.ReadCloser
	sum     func() string // the field x-sum of the trailers
	own     *hyper.Response
}

// answerOf returns the answer of resp.
func answerOf(resp *hyper.Response) *answer {
	return &answer{
		status: resp.StatusCode, length: resp.ContentLength, decoded: resp.Uncompressed,
		field: resp.Header.Get, body: resp.Body,
		sum: func() string { return resp.Trailer().Get("x-sum") }, own: resp,
	}
}

// finish reads the response, and what was pushed with it, as far as the plan says.
func (x *exchange) finish(ctx context.Context, cancel func(), c *client, resp *hyper.Response) error {
	err := x.check(c, answerOf(resp))
	for i := range resp.Header { // the caller owns it, and may change it
		resp.Header[i] = hyper.Field{Name: "x-spoiled", Value: x.number()}
	}
	return cmp.Or(err, x.finishAnswer(ctx, cancel, c, answerOf(resp)))
}

// check checks that the header belongs to this exchange.
func (x *exchange) check(c *client, a *answer) error {
	switch echo := a.field("x-request"); {
	case a.status != 200:
		return mismatch(fmt.Sprintf("status %d", a.status))
	case a.field("x-site") != c.site.name || a.field("x-how") != x.how:
		return mismatch(fmt.Sprintf("a response %q of %q", a.field("x-how"), a.field("x-site")))
	case x.echo != (echo != "") || x.echo && echo != x.number():
		return mismatch(fmt.Sprintf("a response to request %q, not %d", echo, x.id))
	}
	return nil
}

// finishAnswer reads the body of a response and, sometimes, its pushes.
func (x *exchange) finishAnswer(ctx context.Context, cancel func(), c *client, a *answer) error {
	defer a.body.Close()
	if x.kind == "up" {
		text, err := io.ReadAll(a.body)
		if want := strconv.FormatInt(x.size, 10); err == nil && (string(text) != want || x.how == "broken") {
			err = mismatch(fmt.Sprintf("the server took %q bytes of %s", text, want))
		}
		return err
	}
	if x.how == "push" {
		defer c.keepPromises(a.own)
	}
	if x.how == "length" && a.length != x.size || (x.how == "gzip" || x.how == "deflate") != a.decoded {
		return mismatch(fmt.Sprintf("length %d, decoded %v", a.length, a.decoded))
	}
	if err := x.read(cancel, c.site.l, a, &checker{seed: x.seed, size: x.size}); err != nil || x.stop >= 0 {
		return err
	}
	if x.how == "push" && x.rng.IntN(2) == 0 {
		return x.takePushes(ctx, c, a.own)
	}
	return nil
}

// read checks the body and the trailers after it.
func (x *exchange) read(cancel func(), l *ledger, a *answer, body *checker) error {
	buf := make([]byte, 64<<10)
	if x.slow {
		buf = buf[:2<<10]
	}
	for {
		p := buf
		if x.stop >= 0 {
			p = buf[:min(int64(len(buf)), x.stop-body.at)]
			if len(p) == 0 {
				return x.stopReading(cancel, a)
			}
		}
		n, err := a.body.Read(p)
		l.down.Add(int64(n))
		if _, wrong := body.Write(p[:n]); wrong != nil {
			return wrong
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if x.slow && x.rng.IntN(4) == 0 {
			time.Sleep(time.Duration(x.rng.Int64N(int64(5 * time.Millisecond))))
		}
	}
	if err := body.whole(); err != nil {
		return err
	}
	if sum := a.sum(); sum != strconv.FormatInt(body.size, 10) {
		return mismatch(fmt.Sprintf("the sum in the trailers is %q", sum))
	}
	return nil
}

// stopReading ends the exchange early, in the way that the plan says.
func (x *exchange) stopReading(cancel func(), a *answer) error {
	switch x.by {
	case "close":
		a.body.Close()
	case "reset":
		a.own.Stream().Reset(hyper.ErrCodeCancel)
		a.body.Close()
	case "context":
		cancel()
	}
	return nil
}

// takePushes reads some of the pushes, and cancels or ignores the others.
func (x *exchange) takePushes(ctx context.Context, c *client, resp *hyper.Response) error {
	for push, err := range resp.Pushes(ctx) {
		if err != nil {
			return err
		}
		if x.rng.IntN(4) == 0 {
			push.Cancel()
			if x.rng.IntN(2) == 0 {
				return nil // the next push remains unclaimed
			}
			continue
		}
		part := strings.Split(push.Request.Path, "/")
		if len(part) != 5 || part[1] != "down" {
			return mismatch(fmt.Sprintf("the push of %q", push.Request.Path))
		}
		seed, _ := strconv.ParseUint(part[2], 10, 64)
		size, _ := strconv.ParseInt(part[3], 10, 64)
		if seed-x.seed-1 > 1 || size != x.size/4 {
			return mismatch(fmt.Sprintf("the push of %q with %d of %d", push.Request.Path, x.seed, x.size))
		}
		pushed, err := push.Response(ctx)
		if err != nil {
			push.Cancel()
			return err
		}
		err = x.read(nil, c.site.l, answerOf(pushed), &checker{seed: seed, size: size})
		pushed.Body.Close()
		if err != nil {
			return err
		}
		c.site.l.pushes.Add(1)
	}
	return nil
}

// explain returns why the exchange may have ended with err, or "" if there is no explanation.
func (x *exchange) explain(c *client, err error) string {
	var se *hyper.StreamError
	ours := errors.Is(err, context.Canceled) || errors.Is(err, hyper.ErrCanceled)
	switch {
	case errors.Is(err, errHung):
		return ""
	case ours && (x.after > 0 || x.stop >= 0):
		return "cancelled by the caller"
	case x.how == "broken" && errors.Is(err, errBroken):
		return "the request's body broke off"
	case c.site.idle > 0 && hyper.Retryable(err):
		return "never sent: the server ends idle connections"
	case errors.Is(err, hyper.ErrClosed) && c.weLeft():
		return "closed by us"
	case errors.As(err, &se) && se.FromPeer && se.Code == hyper.ErrCodeRefusedStream && hyper.Retryable(err):
		return "refused: above a limit not known yet"
	case errors.Is(err, hyper.ErrDrained) && (c.far.why() == restarted || c.weLeft()):
		return "no new requests: " + restarted
	case errors.As(err, &se) && se.FromPeer && hyper.Retryable(err) && c.far.why() == restarted:
		return "above the last stream of a GOAWAY"
	case errors.As(err, &se) && se.FromPeer && se.Code == hyper.ErrCodeInternal && x.how == "abort":
		return "aborted by the handler"
	}
	return x.explainLoss(c, err)
}

// explainLoss is explain for an error of the whole connection.
func (x *exchange) explainLoss(c *client, err error) string {
	var ce *hyper.ConnError
	if !errors.As(err, &ce) || ce.Code != hyper.ErrCodeNo || c.far.why() == "" {
		return ""
	}
	if hyper.Retryable(err) {
		return "never sent: " + c.far.why()
	}
	return "lost: " + c.far.why()
}
