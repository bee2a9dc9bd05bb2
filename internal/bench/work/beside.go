package work

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// besidePause is the time between two GETs of a latency beside transfers.
const besidePause = 100 * time.Millisecond

// besideUp measures how long a small GET takes beside -c uploads on the same connection, and how
// fast these are. The URL returns, as a text, how many bytes the server has received.
func besideUp(o *options) (figures, error) {
	up := o.target.at("/up")
	return o.beside(func(c client, _ *atomic.Int64) error {
		const endless = 1 << 50
		body, err := c.post(up, &zeros{endless}, endless)
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(io.Discard, body)
		return err
	}, true)
}

// besideDown is besideUp beside downloads.
func besideDown(o *options) (figures, error) {
	endless := o.target.at("/frames?size=65536&n=1000000000")
	return o.beside(func(c client, got *atomic.Int64) error {
		body, err := c.get(endless)
		if err != nil {
			return err
		}
		defer body.Close()
		for buf := make([]byte, o.buffer); ; {
			n, err := body.Read(buf)
			got.Add(int64(n))
			if err != nil {
				return err
			}
		}
	}, false)
}

// at returns the target of another path at the same origin.
func (t target) at(path string) target { return target{t.origin + path, t.origin, path} }

// beside runs transfer -c times at once, and GETs beside them. uploads is whether the server counts
// the bytes, which another connection asks for.
func (o *options) beside(transfer func(c client, got *atomic.Int64) error, uploads bool) (figures, error) {
	c, err := o.newClient()
	if err != nil {
		return nil, err
	}
	counter, err := o.newClient()
	if err != nil {
		return nil, err
	}
	for _, c := range []client{c, counter} { // connects
		if _, err := received(c, o.target); err != nil {
			return nil, err
		}
	}
	var got atomic.Int64
	count := func() (int64, error) { return got.Load(), nil }
	if uploads {
		count = func() (int64, error) { return received(counter, o.target) }
	}
	failed := make(chan error, o.callers+1)
	for range o.callers {
		go func() { failed <- fmt.Errorf("a transfer has ended: %w", transfer(c, &got)) }()
	}
	p := &probes{client: c, target: o.target, from: time.Now().Add(o.settle)}
	go func() { failed <- p.run() }()
	select {
	case err := <-failed:
		return nil, err
	case <-time.After(o.settle):
	}
	first, err := count()
	if err != nil {
		return nil, err
	}
	before := now()
	select {
	case err := <-failed:
		return nil, err
	case <-time.After(o.length):
	}
	last, err := count()
	if err != nil {
		return nil, err
	}
	after := now()
	f := p.figures(after.at)
	f["cpu"] = (after.cpu - before.cpu).Seconds()
	f["mbit"] = float64(last-first) * 8 / 1e6 / after.at.Sub(before.at).Seconds()
	return f, nil
}

// received returns how many bytes of uploads the server has received.
func received(c client, t target) (int64, error) {
	body, err := c.get(t)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// probes are the GETs beside transfers.
type probes struct {
	client client
	target target
	from   time.Time // GETs that begin before are not measured

	mu   sync.Mutex
	took []float64 // milliseconds of each GET
	last time.Time // when the GET in progress began; 0: there is none
}

// run sends GETs until one fails.
func (p *probes) run() error {
	for ; ; time.Sleep(besidePause) {
		began := time.Now()
		p.mu.Lock()
		p.last = began
		p.mu.Unlock()
		if _, err := received(p.client, p.target); err != nil {
			return err
		}
		p.mu.Lock()
		p.last = time.Time{}
		if began.After(p.from) {
			p.took = append(p.took, time.Since(began).Seconds()*1000)
		}
		p.mu.Unlock()
	}
}

// figures returns the figures of the time until end. A GET that has not ended counts with the time
// that it has waited, if that is longer than the median of the others.
func (p *probes) figures(end time.Time) figures {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := p.took
	f := figures{"gets": len(took), "pending_ms": 0.0}
	slices.Sort(took)
	if !p.last.IsZero() {
		pending := end.Sub(p.last).Seconds() * 1000
		f["pending_ms"] = pending
		if len(took) == 0 || pending > took[len(took)/2] {
			took = append(took, pending)
			slices.Sort(took)
		}
	}
	if len(took) > 0 {
		f["median_ms"], f["p90_ms"] = took[len(took)/2], took[len(took)*9/10]
	}
	return f
}
