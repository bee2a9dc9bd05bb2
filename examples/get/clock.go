// This file has the time of -m.

package main

import (
	"context"
	"errors"
	"io"
	"time"
)

// errMaxTime means that a URL took longer than -m allows.
var errMaxTime = errors.New("the time of -m is over")

// A clock ends a transfer when its time is over. It stops before the turn of the transfer to
// write to standard output. It is for one goroutine.
type clock struct {
	left  time.Duration // 0: no limit
	since time.Time     // when timer was started
	timer *time.Timer
}

// start returns a context that ends when the time is over or stop is called.
func (c *clock) start(ctx context.Context) (running context.Context, stop func()) {
	if c.left == 0 {
		return ctx, func() {}
	}
	running, cancel := context.WithCancelCause(ctx)
	c.since = time.Now()
	c.timer = time.AfterFunc(c.left, func() { cancel(errMaxTime) })
	return running, func() { c.timer.Stop(); cancel(nil) }
}

// wait stops the clock until turn is closed.
func (c *clock) wait(turn <-chan struct{}) {
	if c.timer == nil || !c.timer.Stop() {
		<-turn
		return
	}
	c.left -= time.Since(c.since)
	<-turn
	c.since = time.Now()
	c.timer.Reset(max(c.left, 1))
}

// explain returns errMaxTime if the clock has ended ctx and thereby caused err.
func (c *clock) explain(ctx context.Context, err error) error {
	if err != nil && context.Cause(ctx) == errMaxTime {
		return errMaxTime
	}
	return err
}

// A pacedReader is a body that is read at a rate.
type pacedReader struct {
	r     io.Reader
	ctx   context.Context
	rate  float64 // bytes a second
	began time.Time
	n     int64
}

// Read waits until the bytes before are due.
func (p *pacedReader) Read(b []byte) (int, error) {
	if p.began.IsZero() {
		p.began = time.Now()
	}
	due := p.began.Add(time.Duration(float64(p.n) / p.rate * float64(time.Second)))
	select {
	case <-time.After(time.Until(due)):
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	}
	n, err := p.r.Read(b[:max(1, min(len(b), int(p.rate/pacedPerSecond)))])
	p.n += int64(n)
	return n, err
}

// pacedPerSecond is how often a pacedReader is read in a second.
const pacedPerSecond = 10

// Close closes the body.
func (p *pacedReader) Close() error {
	if c, ok := p.r.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
