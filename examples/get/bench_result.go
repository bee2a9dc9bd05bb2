// This file measures, and writes the results of get bench.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A result is what get bench has measured. It is also the form of its JSON. Times are in
// nanoseconds.
type result struct {
	URLs        []string         `json:"urls"`
	Model       string           `json:"model"` // "closed" or "open"
	Connections int              `json:"connections"`
	Streams     int              `json:"streams"`        // of each connection
	Rate        float64          `json:"rate,omitempty"` // of the open model, requests a second
	Elapsed     time.Duration    `json:"elapsed_ns"`
	Requests    int64            `json:"requests"` // that got a response
	PerSecond   float64          `json:"requests_per_second"`
	Bytes       int64            `json:"body_bytes"`
	Statuses    map[int]int64    `json:"statuses"`
	Failed      int64            `json:"failed"`
	Failures    map[string]int64 `json:"failures"`
	Unsent      int64            `json:"unsent"` // requests of the open model that were due and not sent
	Retries     int64            `json:"retries"`
	Replaced    int              `json:"replaced_connections"`
	Connect     time.Duration    `json:"connect_ns"` // the longest time to make a connection
	CPU         time.Duration    `json:"client_cpu_ns"`
	Service     *latency         `json:"service_time"`    // since requests were sent
	Response    *latency         `json:"response_time"`   // since they were due, or corrected
	Interrupted bool             `json:"interrupted"`     // by the user
	GaveUp      bool             `json:"gave_up"`         // as there was no server
	Error       string           `json:"error,omitempty"` // for which no request was sent
	Note        string           `json:"note,omitempty"`  // about the server
	Go          string           `json:"go"`              // the version
}

// A latency is a distribution of times.
type latency struct {
	Min       time.Duration            `json:"min_ns"`
	Mean      time.Duration            `json:"mean_ns"`
	Deviation time.Duration            `json:"deviation_ns"`
	Quantiles map[string]time.Duration `json:"percentiles_ns"`
	Max       time.Duration            `json:"max_ns"`
	Histogram string                   `json:"hdrhistogram"` // compressed, in base64, as HdrHistogram has it
}

// quantiles are the percentiles that are reported.
var quantiles = []float64{50, 75, 90, 99, 99.9, 99.99}

// newLatency returns the summary of h.
func newLatency(h *hdrhistogram.Histogram) *latency {
	l := &latency{Min: time.Duration(h.Min()), Mean: time.Duration(h.Mean()),
		Deviation: time.Duration(h.StdDev()), Max: time.Duration(h.Max()),
		Quantiles: make(map[string]time.Duration)}
	for _, q := range quantiles {
		l.Quantiles[fmt.Sprint(q)] = time.Duration(h.ValueAtPercentile(q))
	}
	if text, err := h.EncodeV2(); err == nil {
		l.Histogram = string(text)
	}
	return l
}

// benchGC is the GOGC of get bench.
const benchGC = 400

// measure makes the connections, sends the requests and returns the result.
func (o *benchOptions) measure(ctx context.Context, std stdio) (*result, error) {
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(benchGC)) // there is little to keep
	}
	requests, err := o.prepare(std)
	if err != nil {
		return nil, err
	}
	d, err := o.conn.dialer()
	if err != nil {
		return nil, err
	}
	defer d.close()
	o.flow.apply(d.cfg)
	links, note, err := o.openLinks(ctx, d)
	if err != nil {
		return nil, err
	}
	defer closeLinks(links)
	tallies := make([]*tally, min(len(links), runtime.GOMAXPROCS(0)))
	for i := range tallies {
		tallies[i] = newTally(o.load.rate > 0)
	}
	c := newCrew(links, &o.load, requests, tallies)
	if o.load.warmUp > 0 {
		c.run(ctx, o.load.begin(ctx, 0, o.load.warmUp))
		for _, t := range tallies {
			t.reset()
		}
	}
	cpu, p := cpuTime(), o.load.begin(ctx, o.load.count, o.load.length)
	stop := o.showProgress(std, p, tallies)
	c.run(ctx, p)
	took := p.offered()
	stop()
	r := o.result(sum(tallies), p, took)
	r.CPU, r.Note, r.Interrupted = cpuTime()-cpu, note, ctx.Err() != nil
	r.GaveUp = p.gaveUp()
	for _, l := range links {
		r.Replaced += l.replacements()
		r.Connect = max(r.Connect, l.took)
	}
	return r, nil
}

// prepare returns what is sent for each URL.
func (o *benchOptions) prepare(std stdio) (list []*prepared, err error) {
	c, err := o.request.composer(std)
	if err != nil {
		return nil, err
	}
	for _, u := range o.urls {
		t := &target{url: u}
		if len(o.request.uploads) > 0 {
			t.upload = o.request.uploads[0]
		}
		r := &prepared{message: c.message(t)}
		if r.message.content == nil {
			if r.shared, err = r.message.request(); err != nil {
				return nil, err
			}
			r.shared.Body = http.NoBody // Open ends the request at once
		}
		list = append(list, r)
	}
	return list, nil
}

// result returns the results in t of the plan p, which took a time.
func (o *benchOptions) result(t *tally, p *plan, took time.Duration) *result {
	r := &result{Model: "closed", Connections: o.load.conns, Streams: o.load.streams, Rate: o.load.rate,
		Elapsed: took, Requests: t.counts.requests, Bytes: t.counts.bytes, Statuses: make(map[int]int64),
		Failed: t.counts.failed, Failures: t.counts.failures, Unsent: p.unsent(took),
		Retries: t.counts.retries,
		Service: newLatency(t.service), Go: runtime.Version()}
	if took > 0 {
		r.PerSecond = float64(r.Requests) / took.Seconds()
	}
	for status, n := range t.counts.statuses {
		if n > 0 {
			r.Statuses[status] = n
		}
	}
	for _, u := range o.urls {
		r.URLs = append(r.URLs, u.Redacted())
	}
	if t.response != nil {
		r.Model, r.Response = "open", newLatency(t.response)
	} else {
		r.Response = newLatency(correct(t.service, time.Duration(t.service.ValueAtPercentile(50))))
	}
	return r
}

// failure returns the result of a run that has failed before its first request.
func (o *benchOptions) failure(err error) *result {
	r := o.result(newTally(o.load.rate > 0), &plan{}, 0)
	r.Error = explain(err)
	return r
}

// exit returns the exit code.
func (r *result) exit() int {
	if r.Failed > 0 || r.Requests == 0 || r.Interrupted || r.GaveUp {
		return exitFailed
	}
	for status := range r.Statuses {
		if status >= 400 {
			return exitStatus
		}
	}
	return exitOK
}

// write writes the result to the places in the flags.
func (o *benchOptions) write(r *result, std stdio) error {
	if o.json != "-" && r.Error == "" {
		r.writeTable(std.out)
	}
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if o.json == "-" {
		_, err = std.out.Write(text)
		return err
	}
	return os.WriteFile(o.json, text, 0o666)
}

// writeTable writes the result as a table.
func (r *result) writeTable(w io.Writer) {
	model := "closed model"
	if r.Rate > 0 {
		model = "open model, " + strconv.FormatFloat(r.Rate, 'f', -1, 64) + " requests/s"
	}
	fmt.Fprintf(w, "%s\nconnections: %d, each with %s at a time; %s\n\n", r.URLs[0], r.Connections,
		counted(r.Streams, "request"), model)
	if r.Note != "" {
		fmt.Fprintf(w, "note: %s\n\n", r.Note)
	}
	if r.Interrupted {
		fmt.Fprint(w, "note: interrupted\n\n")
	}
	if r.GaveUp {
		fmt.Fprint(w, "note: gave up, as no connection could be made for the time of --give-up\n\n")
	}
	seconds := r.Elapsed.Seconds()
	fmt.Fprintf(w, "requests     %d in %s s: %s/s, %s/s of bodies\n", r.Requests, number(seconds, 3),
		number(r.PerSecond, 5), bytesText(float64(r.Bytes)/seconds))
	for _, status := range slices.Sorted(maps.Keys(r.Statuses)) {
		fmt.Fprintf(w, "status %d   %d\n", status, r.Statuses[status])
	}
	fmt.Fprintf(w, "failed       %d\n", r.Failed)
	for _, kind := range slices.Sorted(maps.Keys(r.Failures)) {
		fmt.Fprintf(w, "             %d × %s\n", r.Failures[kind], kind)
	}
	if r.Unsent > 0 {
		fmt.Fprintf(w, "not sent     %d due, as no stream was free\n", r.Unsent)
	}
	if r.Retries > 0 || r.Replaced > 0 {
		fmt.Fprintf(w, "sent again   %d, on %s\n", r.Retries, counted(r.Replaced, "new connection"))
	}
	fmt.Fprintf(w, "connecting   %s at most\n", short(r.Connect))
	if n := r.Requests + r.Failed; r.CPU > 0 && n > 0 {
		fmt.Fprintf(w, "client CPU   %s us a request, %s processors\n",
			number(float64(r.CPU)/float64(n)/float64(time.Microsecond), 3),
			number(r.CPU.Seconds()/seconds, 2))
	}
	r.writeLatencies(w)
}

// writeLatencies writes the table of latencies.
func (r *result) writeLatencies(w io.Writer) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\tmin\tmean")
	for _, q := range quantiles {
		fmt.Fprintf(t, "\tp%g", q)
	}
	fmt.Fprintln(t, "\tmax\t")
	line := func(title string, l *latency) {
		fmt.Fprintf(t, "%s\t%s\t%s", title, short(l.Min), short(l.Mean))
		for _, q := range quantiles {
			fmt.Fprintf(t, "\t%s", short(l.Quantiles[fmt.Sprint(q)]))
		}
		fmt.Fprintf(t, "\t%s\t\n", short(l.Max))
	}
	line("since it was sent", r.Service)
	if r.Rate > 0 {
		line("since it was due", r.Response)
	} else {
		line("corrected", r.Response)
	}
	t.Flush()
}

// bytesText formats a number of bytes with a unit.
func bytesText(n float64) string {
	for _, unit := range []string{"B", "kB", "MB"} {
		if n < 1000 {
			return number(n, 3) + " " + unit
		}
		n /= 1000
	}
	return number(n, 3) + " GB"
}
