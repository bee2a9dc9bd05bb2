// This file fetches all URLs of the command line.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gohyper.dev/hyper"
)

// A getter fetches URLs.
type getter struct {
	*options
	std     stdio // std.err may be written by several goroutines
	compose *composer
	dialer  *dialer
	traces  *traces
	bars    *bars    // nil: no progress is shown
	history *history // nil: nothing is kept
}

// newGetter returns a getter with the options o.
func newGetter(o *options, std stdio) (*getter, error) {
	g := &getter{options: o, std: std}
	err := errors.Join(checkRecording(o.show.har), checkRecording(o.show.waterfall))
	if err != nil {
		return nil, err
	}
	if g.compose, err = o.request.composer(std); err != nil {
		return nil, err
	}
	if g.dialer, err = o.conn.dialer(); err != nil {
		return nil, err
	}
	o.flow.apply(g.dialer.cfg)
	if o.show.timing || o.output.discard {
		g.history, g.dialer.cfg.StreamTimes = &history{}, true
	}
	errs := std.err
	if o.showsBars(std) {
		g.bars = newBars(errs)
		errs = g.bars
	}
	g.std.err = &lockedWriter{w: errs}
	g.traces = o.show.traces(g.std.err)
	g.dialer.cfg.Trace = g.traces.function()
	return g, nil
}

// showsBars reports whether progress is shown: on a terminal to which nothing else is written.
func (o *options) showsBars(std stdio) bool {
	return isTerminal(std.err) && !o.output.quiet.silent && !o.show.verbose &&
		(!isTerminal(std.out) || !o.output.toStdout(len(o.targets)))
}

// A lockedWriter is a writer for several goroutines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// atOnce is the maximum number of concurrent requests. Before its turn, a body holds a part
// of the connection's window, and the body that is being written needs a part of that window, too.
const atOnce = 8

// getAll fetches all URLs and returns the exit code.
func (g *getter) getAll(ctx context.Context) int {
	p := newPool(ctx, g.dialer)
	defer p.close()
	slots := make(chan struct{}, atOnce)
	turn := make(chan struct{}) // closed when the next URL may write to standard output
	close(turn)
	codes := make([]int, len(g.targets))
	var wg sync.WaitGroup
	for i, t := range g.targets {
		slots <- struct{}{}
		mine, next := turn, make(chan struct{})
		turn = next
		wg.Go(func() {
			defer func() { <-slots }()
			defer close(next)
			x := &transfer{getter: g, target: t, pool: p, clock: &clock{left: g.maxTime}}
			x.out = g.newPlace(t.output, mine, x.clock)
			status, err := x.run(ctx)
			<-mine
			codes[i] = g.report(t, status, err)
		})
	}
	wg.Wait()
	if g.bars != nil {
		g.bars.close()
	}
	exit := exitOK
	for _, code := range codes {
		if rank(code) > rank(exit) {
			exit = code
		}
	}
	return exit
}

// rank orders exit codes: the highest is reported.
func rank(code int) int {
	switch code {
	case exitFailed:
		return 3
	case exitTime:
		return 2
	case exitStatus:
		return 1
	}
	return 0
}

// report writes what is wrong with the result of a URL, and returns its exit code.
func (g *getter) report(t *target, status int, err error) int {
	switch {
	case err != nil:
		g.warn("%s: %s", t.url.Redacted(), explain(err))
		if errors.Is(err, errMaxTime) {
			return exitTime
		}
		return exitFailed
	case status >= 400:
		g.warn("%s: status %d", t.url.Redacted(), status)
		return exitStatus
	}
	return exitOK
}

// warn writes a message, unless -s is set without -S.
func (g *getter) warn(format string, args ...any) {
	if g.output.quiet.showsErrors() {
		fmt.Fprintf(g.std.err, "get: "+format+"\n", args...)
	}
}

// finish writes the tables and the files of what happened.
func (g *getter) finish() error {
	if g.show.timing {
		g.history.writeTimings(g.std.err)
	}
	if g.output.discard {
		g.history.writeStatistics(g.std.out)
	}
	return errors.Join(g.traces.save(), g.dialer.close())
}

// A transfer is one URL, with the redirects that follow.
type transfer struct {
	*getter
	target *target
	pool   *pool
	clock  *clock
	out    *place
}

// run fetches the URL and writes the response. It returns the last status.
func (x *transfer) run(ctx context.Context) (status int, err error) {
	ctx, stop := x.clock.start(ctx)
	defer stop()
	defer func() { err = errors.Join(x.clock.explain(ctx, err), x.out.close()) }()
	m := x.compose.message(x.target)
	for hops := 0; ; hops++ {
		e, err := x.send(ctx, m)
		if err != nil {
			return 0, err
		}
		next, err := x.redirect.next(m, e.resp, hops)
		if err := errors.Join(x.receive(ctx, m, e, next != nil || err != nil), err); err != nil {
			return e.resp.StatusCode, err
		}
		if next == nil {
			return e.resp.StatusCode, nil
		}
		if x.request.method != "" {
			next.method = x.request.method
		}
		m = next
	}
}

// maxTries is how often a request is sent that the server has not processed.
const maxTries = 3

// send sends a message and waits for the response. It sends the message again, on a new connection
// if necessary, if the server has provably not processed it.
func (x *transfer) send(ctx context.Context, m *message) (*entry, error) {
	e := &entry{url: m.url.Redacted(), began: time.Now()}
	for tries := 1; ; tries++ {
		l, err := x.pool.get(ctx, m.url)
		if err != nil {
			return nil, err
		}
		e.link, e.first = l, l.use()
		e.resp, err = x.sendOn(ctx, l.conn, m)
		if err == nil {
			x.history.add(e)
			return e, nil
		}
		if tries == maxTries || ctx.Err() != nil || !hyper.Retryable(err) {
			return nil, err
		}
	}
}

// sendOn sends a message on a connection and waits for the response.
func (x *transfer) sendOn(ctx context.Context, conn *hyper.Conn, m *message) (*hyper.Response, error) {
	req, err := m.request()
	if err != nil {
		return nil, err
	}
	if req.Body == nil {
		return conn.Do(ctx, req)
	}
	if x.flow.rate > 0 {
		req.Body = &pacedReader{r: req.Body, ctx: ctx, rate: float64(x.flow.rate)}
	}
	stream, err := conn.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	defer x.bars.upload(m.url.Redacted(), m.content.length(), stream)()
	resp, err := stream.Response(ctx)
	if err != nil {
		stream.Reset(hyper.ErrCodeCancel)
	}
	return resp, err
}

// receive writes the header and the body, as far as the flags require them. The body of a redirect
// is not written if it is followed, or should be.
func (x *transfer) receive(ctx context.Context, m *message, e *entry, followed bool) error {
	resp := e.resp
	var pushes sync.WaitGroup
	if x.conn.push {
		pushes.Go(func() { x.listPushes(ctx, resp, e) })
	}
	defer pushes.Wait()
	defer resp.Body.Close() // otherwise promises could still come
	if x.showsHeader() {
		if err := x.out.header(resp); err != nil {
			return err
		}
	}
	if followed {
		io.CopyN(io.Discard, resp.Raw(), maxRedirectBody)
		return nil
	}
	if to := resp.Header.Get("location"); to != "" && resp.StatusCode/100 == 3 {
		defer x.warn("%s: status %d, see %s", m.url.Redacted(), resp.StatusCode, printable(to))
	}
	if err := x.write(m, resp); err != nil {
		return err
	}
	if x.showsHeader() {
		if err := x.out.fields(resp.Trailer()); err != nil {
			return err
		}
	}
	return nil
}

// maxRedirectBody is how much of the body of a redirect is read, in bytes, before it is cancelled.
const maxRedirectBody = 64 << 10

// showsHeader reports whether headers are written.
func (x *transfer) showsHeader() bool { return x.output.include || x.request.head }

// write writes the body and shows its progress.
func (x *transfer) write(m *message, resp *hyper.Response) error {
	body, total := resp.Body, resp.ContentLength
	switch {
	case m.raw:
		body = resp.Raw()
	case resp.Uncompressed:
		total = -1 // ContentLength counts the compressed bytes
	}
	w, err := x.out.writer()
	if err != nil {
		return err
	}
	bar := x.bars.download(m.url.Redacted(), total)
	defer bar.done()
	_, err = io.Copy(io.MultiWriter(w, bar), body)
	return err
}

// listPushes reads the pushes that the server sends with resp, and lists them on standard error.
func (x *transfer) listPushes(ctx context.Context, resp *hyper.Response, e *entry) {
	for push, err := range resp.Pushes(ctx) {
		if err != nil {
			return // the same error is reported for resp
		}
		path := printable(push.Request.Path)
		what := fmt.Sprintf("push %s (stream %d, promised on %d)", path, push.ID(), push.ParentID)
		pushed, err := push.Response(ctx)
		if err != nil {
			fmt.Fprintf(x.std.err, "%s: %v\n", what, err)
			continue
		}
		n, err := io.Copy(io.Discard, pushed.Body)
		if err != nil {
			fmt.Fprintf(x.std.err, "%s: %v\n", what, err)
		} else {
			fmt.Fprintf(x.std.err, "%s: status %d, %d bytes\n", what, pushed.StatusCode, n)
		}
		pushed.Body.Close()
		x.history.add(&entry{url: path, resp: pushed, link: e.link, began: time.Now(),
			pushed: true})
	}
}
