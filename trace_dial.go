package hyper

import (
	"context"
	"time"
)

// A dialTrace reports the events of a connection that is being made. It is a value of the context
// of the dial, so that every way to dial reports them. A nil *dialTrace reports nothing.
type dialTrace struct {
	id   uint64 // of the connection
	host string
	sink func(TraceEvent)
}

// dialTraceKey is the key of the *dialTrace in a context.
type dialTraceKey struct{}

// dialTraceOf returns the dialTrace of ctx, or nil if there is none.
func dialTraceOf(ctx context.Context) *dialTrace {
	d, _ := ctx.Value(dialTraceKey{}).(*dialTrace)
	return d
}

// withDialTrace returns ctx with a dialTrace for a connection to host, if cfg has a Trace. cfg may
// be nil.
func withDialTrace(ctx context.Context, cfg *Config, host string) context.Context {
	switch {
	case cfg != nil && cfg.Trace != nil:
	case dialTraceOf(ctx) == nil:
		return ctx
	default: // it is that of a connection through which this one is dialed
		return context.WithValue(ctx, dialTraceKey{}, (*dialTrace)(nil))
	}
	return context.WithValue(ctx, dialTraceKey{}, &dialTrace{id: lastConnID.Add(1), host: host,
		sink: cfg.Trace})
}

// step reports the beginning of a step, and returns a function that reports its end as the kind
// after it.
func (d *dialTrace) step(kind TraceKind) (done func(error)) {
	if d == nil {
		return func(error) {}
	}
	start := time.Now()
	d.sink(TraceEvent{Kind: kind, ConnID: d.id, At: start, Host: d.host})
	return func(err error) {
		end := time.Now()
		d.sink(TraceEvent{Kind: kind + 1, ConnID: d.id, At: end, Host: d.host, Wait: end.Sub(start),
			Err: err})
	}
}

// traceSlotWait reports that a request begins to wait for a slot on one of h's connections, or for
// a connection. It returns the time, or the zero time if there is no trace.
func (h *host) traceSlotWait() (began time.Time) {
	if trace := h.t.config().Trace; trace != nil {
		began = time.Now()
		trace(TraceEvent{Kind: TraceSlotWait, At: began, Host: h.owner.book.name.origin})
	}
	return began
}

// traceRetry reports that r is sent again after err, which it had on c.
func (h *host) traceRetry(c *Conn, err error, pause time.Duration) {
	trace := h.t.config().Trace
	if trace == nil {
		return
	}
	e := TraceEvent{Kind: TraceRetry, At: time.Now(), Conn: c, Host: h.owner.book.name.origin,
		Wait: pause, Err: err}
	if t := c.writer.tracer; t != nil {
		e.ConnID, e.Time = t.id, t.c.clock()
	}
	trace(e)
}
