// This file has the statistics of -n, in the form of nghttp's.

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"gohyper.dev/hyper"
)

// A history has the requests that got a response, and the pushes. A nil history keeps nothing.
type history struct {
	mu      sync.Mutex // guards the fields below
	entries []*entry
	lost    int // entries beyond maxEntries
}

// maxEntries bounds a history, as a server may push without end.
const maxEntries = 10_000

// An entry is one request, or one push.
type entry struct {
	url    string
	link   *link
	resp   *hyper.Response
	began  time.Time // when its URL began, or the redirect to it
	first  bool      // it is the first request on its connection
	pushed bool
}

// add adds an entry.
func (h *history) add(e *entry) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.entries) == maxEntries {
		h.lost++
		return
	}
	h.entries = append(h.entries, e)
}

// list returns the entries in the order in which they began.
func (h *history) list() []*entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := slices.Clone(h.entries)
	slices.SortStableFunc(list, func(a, b *entry) int { return a.began.Compare(b.began) })
	return list
}

// statisticsHead begins the statistics.
const statisticsHead = `***** Statistics *****

responseEnd:  when the last byte of the response was received, since the connection was made
requestStart: when the request got its stream, since then; * marks a push
process:      responseEnd - requestStart
size:         bytes of the body as it was received

sorted by responseEnd

`

// writeStatistics writes a table of all streams.
func (h *history) writeStatistics(w io.Writer) {
	type row struct {
		*entry
		hyper.StreamStats
	}
	var rows []row
	for _, e := range h.list() {
		rows = append(rows, row{e, e.resp.Stats()})
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Compare(a.ResponseEnded.Sub(a.link.ready), b.ResponseEnded.Sub(b.link.ready))
	})
	io.WriteString(w, statisticsHead)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "id\tresponseEnd\trequestStart\tprocess\tcode\tsize\t  request URL")
	for _, r := range rows {
		end := "-"
		if !r.ResponseEnded.IsZero() {
			end = "+" + short(r.ResponseEnded.Sub(r.link.ready))
		}
		mark := ""
		if r.pushed {
			mark = "*"
		}
		fmt.Fprintf(t, "%d\t%s\t%s+%s\t%v\t%d\t%d\t  %s\n", r.resp.StreamID, end, mark,
			short(r.Opened.Sub(r.link.ready)), span{r.Opened, r.ResponseEnded}, r.resp.StatusCode,
			r.BytesReceived, r.url)
	}
	t.Flush()
	if h.lost > 0 {
		fmt.Fprintf(w, "%d more are left out\n", h.lost)
	}
}
