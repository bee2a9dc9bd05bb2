package hypertest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// updateFigures is the flag that makes TestFigures write the table.
var updateFigures = flag.Bool("update", false, "write figures.md anew")

// figuresFile holds the table of figures.
const figuresFile = "figures.md"

// A figure is the result of a scenario with one client.
type figure struct {
	bad, of int // failures, usually of requests, and the number of attempts
	dials   int // connections that were made
	took    time.Duration
	err     error // of one request that failed
}

func (f figure) String() string {
	return fmt.Sprintf("%d of %d, %d connections, %v; %v", f.bad, f.of, f.dials, f.took, f.err)
}

// A scenario is one row of the table of figures.
type scenario struct {
	name  string
	play  func(t *testing.T, client string) figure
	dials bool // compare connections: no more than with net/http
	took  bool // compare time: no longer than with net/http
	lacks string
}

// clients are the columns of the table.
var clients = []string{"net/http", "Transport", "ConfigureTransport"}

// crowded returns the scenario that plays row.
func crowded(name string, row crowdedRow) scenario {
	return scenario{name: name, play: func(t *testing.T, client string) figure {
		f, _ := row.play(t, client)
		return f
	}}
}

// scenarios returns all rows of the table.
func scenarios() []scenario {
	list := make([]scenario, 0, 32)
	for i, name := range []string{
		"GOAWAY after 1 of 150 requests at once; the next connection is healthy",
		"GOAWAY after 1 of 500 requests at once; the next connection is healthy",
		"limit of 1 stream, announced, the rest refused; 150 requests at once",
		"limit of 1 stream, announced, the rest refused; 600 requests at once",
		"limit of 1 stream, not announced; 400 requests at once",
		"limit of 2 streams, not announced; 400 requests at once",
		"GOAWAY after 10 requests on each connection; 1,000 requests of 100 callers",
		"GOAWAY after 1 request on each connection; 400 requests of 100 callers",
	} {
		list = append(list, crowded(name, crowdedRows[i]))
	}
	endless := crowded("every request is refused, for ever; 20 requests",
		crowdedRow{"", crowdedServer{refuse: true}, 20, 20})
	goAway := crowded("GOAWAY at once on each connection; 1 request",
		crowdedRow{"", crowdedServer{goAway: true}, 1, 1})
	goAway.dials = true
	beyond := crowdedServer{announce: []wire.Setting{h2test.AtMost(10)}, limit: 10, strict: true}
	return append(list, endless, goAway,
		crowded("every request is refused on the first connection; 20 requests",
			crowdedRow{"", crowdedServer{refuse: true, firstOnly: true}, 20, 20}),
		crowded("a stream beyond the limit of 10, announced, ends the connection; 40 requests at once",
			crowdedRow{"", beyond, 40, 40}),
		scenario{
			name: "limit of 1 stream, announced, the rest refused; 200 uploads that cannot be repeated",
			play: playUploads,
		},
		scenario{
			name: "first uploads of 10 kB to a server with windows of 1,000 bytes; 30 connections",
			play: playSmallWindows,
		},
		scenario{
			name: "the first dial hangs; 10 requests of 5 s",
			play: playHangingDial,
			took: true,
		},
		scenario{
			name: "the first back end never answers TLS; 10 requests of 2 s",
			play: playSilentTLS,
			took: true,
		},
		scenario{
			name: "the peer falls silent; requests of 0.5 s until one has a response, 200 at most",
			play: playSilence,
		},
		scenario{
			name: "the second of 2 first requests at once is not said to reuse the connection",
			play: playReused,
		},
		scenario{
			name: "Client.Timeout ends a request, and the error does not say so; 100 requests",
			play: playTimeouts,
		},
		scenario{
			name:  "50 first requests at once to a new host",
			play:  playBurst,
			dials: true,
		},
		scenario{
			name:  "DisableKeepAlives; 20 requests",
			play:  playNoKeepAlives,
			dials: true,
			lacks: "Transport",
		},
		scenario{
			name:  "a response header of 500 kB; 1 request",
			play:  playWideHeader,
			lacks: "Transport",
		},
	)
}

// each calls send n times, concurrently or one after another, and counts the errors.
func each(n int, atOnce bool, send func() error) (f figure) {
	var all sync.WaitGroup
	var mu sync.Mutex
	start := time.Now()
	f.of = n
	for range n {
		one := func() {
			if err := send(); err != nil {
				mu.Lock()
				f.bad, f.err = f.bad+1, err
				mu.Unlock()
			}
		}
		if all.Go(one); !atOnce {
			all.Wait()
		}
	}
	all.Wait()
	f.took = time.Since(start)
	return f
}

// within sends a request with the timeout d and reads its response.
func within(t *testing.T, rt http.RoundTripper, d time.Duration, method, url string, body io.Reader) error {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// playUploads sends uploads that cannot be sent again to a server that allows one stream.
func playUploads(t *testing.T, client string) figure {
	s := &crowdedServer{announce: limitOf1, limit: 1}
	rt := s.connect(t, client, s.dial)
	f := each(200, true, func() error {
		body := struct{ io.Reader }{strings.NewReader("once")}
		return within(t, rt, time.Minute, "POST", "http://example.com/", body)
	})
	f.dials = s.dials
	return f
}

// playSmallWindows sends uploads whose first connection goes to a server with small windows.
func playSmallWindows(t *testing.T, client string) figure {
	dials := 0
	f := each(30, false, func() error {
		s := &crowdedServer{}
		rt, n := withFirstDial(t, s, client, func(context.Context) (net.Conn, error) {
			nc, server := h2test.Pipe()
			go smallWindows{plainPeer{server}}.serve()
			return nc, nil
		})
		body := struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 10_000))}
		err := within(t, rt, 10*time.Second, "POST", "http://example.com/", body)
		dials += *n
		closeIdle(rt)
		return err
	})
	f.dials = dials
	return f
}

// A smallWindows is a server whose SETTINGS announce stream windows of 1,000 bytes.
type smallWindows struct{ plainPeer }

// serve resets the first stream that exceeds its window, and responds to uploads.
func (p smallWindows) serve() {
	defer p.Close()
	buf := make([]byte, 1<<20)
	if _, err := io.ReadFull(p, buf[:len(wire.ClientPreface)]); err != nil {
		return
	}
	window := wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1000}
	p.Write(wire.AppendSettingsAck(wire.AppendSettings(nil, window)))
	reset := false
	for {
		if _, err := io.ReadFull(p, buf[:wire.HeaderLen]); err != nil {
			return
		}
		h := wire.ParseFrameHeader(buf)
		if _, err := io.ReadFull(p, buf[:h.Length]); err != nil {
			return
		}
		switch {
		case h.Type == wire.Ping && !h.Flags.Has(wire.Ack):
			p.Write(wire.AppendPing(nil, wire.Ack, wire.ParsePing(buf)))
		case h.Type != wire.Data || reset:
		case h.Length > 1000:
			reset = true
			p.Write(wire.AppendRSTStream(nil, h.StreamID, wire.FlowControlError))
		case h.Flags.Has(wire.EndStream):
			end := wire.FrameHeader{Length: 1, Type: wire.Headers, StreamID: h.StreamID}
			end.Flags = wire.EndHeaders | wire.EndStream
			p.Write(append(wire.AppendFrameHeader(nil, end), 0x89)) // :status: 204
		case h.Length > 0:
			p.Write(wire.AppendWindowUpdate(nil, h.StreamID, h.Length))
		}
	}
}

// withFirstDial returns a client of s that calls instead in place of its first dial. It also
// returns the number of dials.
func withFirstDial(
	t *testing.T, s *crowdedServer, client string, instead func(ctx context.Context) (net.Conn, error),
) (http.RoundTripper, *int) {
	dials := 0
	return s.connect(t, client, func(ctx context.Context, network, addr string) (net.Conn, error) {
		s.mu.Lock()
		dials++
		first := dials == 1
		s.mu.Unlock()
		if first {
			return instead(ctx)
		}
		return s.dial(ctx, network, addr)
	}), &dials
}

// playHangingDial sends requests while the first dial never returns.
func playHangingDial(t *testing.T, client string) figure {
	s := &crowdedServer{}
	rt, dials := withFirstDial(t, s, client, func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	f := each(10, false, func() error {
		return within(t, rt, 5*time.Second, "GET", "http://example.com/",
			nil)
	})
	f.dials = *dials
	closeIdle(rt)
	return f
}

// playSilentTLS sends requests while the first connection never responds to the TLS handshake.
func playSilentTLS(t *testing.T, client string) figure {
	s := &crowdedServer{tls: true}
	rt, dials := withFirstDial(t, s, client, func(context.Context) (net.Conn, error) {
		nc, server := h2test.Pipe()
		t.Cleanup(func() { server.Close() })
		return nc, nil
	})
	f := each(10, false, func() error {
		return within(t, rt, 2*time.Second, "GET", "https://example.com/",
			nil)
	})
	f.dials = *dials
	closeIdle(rt)
	return f
}

// closeIdle closes the idle connections of rt.
func closeIdle(rt http.RoundTripper) {
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// playSilence counts how many requests fail after the first connection has become silent.
func playSilence(t *testing.T, client string) (f figure) {
	s := &crowdedServer{silent: true}
	rt := s.connect(t, client, s.dial)
	get := func() error { return within(t, rt, 500*time.Millisecond, "GET", "http://example.com/", nil) }
	if err := get(); err != nil {
		t.Error(err)
	}
	start := time.Now()
	f.of = 200
	for f.bad < f.of && get() != nil {
		f.bad++
	}
	f.dials, f.took = s.dials, time.Since(start)
	return f
}

// playReused counts one failure if neither of two requests reports that its connection was reused.
func playReused(t *testing.T, client string) figure {
	s := &crowdedServer{}
	rt := s.connect(t, client, s.dial)
	var mu sync.Mutex
	reused := 0
	f := each(2, true, func() error {
		ctx := httptrace.WithClientTrace(t.Context(),
			&httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
				mu.Lock()
				defer mu.Unlock()
				if info.Reused {
					reused++
				}
			}})
		req, err := http.NewRequestWithContext(ctx, "GET", "http://example.com/", nil)
		if err != nil {
			return err
		}
		resp, err := rt.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	if f.bad > 0 {
		t.Error(f)
	}
	return figure{bad: 1 - reused, of: 1, dials: s.dials, took: f.took}
}

// playTimeouts counts timeouts whose error does not have the text of http.Client's.
func playTimeouts(t *testing.T, client string) figure {
	s := &crowdedServer{silent: true}
	c := &http.Client{Transport: s.connect(t, client, s.dial), Timeout: 2 * time.Second}
	if resp, err := c.Get("http://example.com/"); err != nil {
		t.Error(err)
	} else {
		resp.Body.Close()
	}
	f := each(100, true, func() error {
		_, err := c.Get("http://example.com/")
		if err == nil || !strings.Contains(err.Error(), "(Client.Timeout exceeded") {
			return fmt.Errorf("the error is %w", err)
		}
		return nil
	})
	f.dials = s.dials
	return f
}

// playSite calls act with a client and the site that it connects to. set changes the
// http.Transport.
func playSite(
	t *testing.T, client string, set func(*http.Transport), act func(*site, http.RoundTripper) figure,
) figure {
	s := newSite(t, false, siteHandler)
	defer s.server.Close()
	tr := s.transport()
	if set != nil {
		set(tr)
	}
	var rt http.RoundTripper = tr
	switch client {
	case "ConfigureTransport":
		if err := hyper.ConfigureTransport(tr, nil); err != nil {
			t.Error(err)
		}
	case "Transport":
		rt = transportDoor(t, s.dial, hyper.Config{})
	}
	f := act(s, rt)
	f.dials, _ = s.counts()
	closeIdle(rt)
	return f
}

// eachGet sends n GETs for path and counts those without a response over HTTP/2.
func (s *site) eachGet(rt http.RoundTripper, n int, atOnce bool, path string) figure {
	return each(n, atOnce, func() error {
		if got := s.get(rt, path); !strings.HasPrefix(got, "200 HTTP/2.0") {
			return errors.New(got)
		}
		return nil
	})
}

// playBurst sends 50 concurrent requests.
func playBurst(t *testing.T, client string) figure {
	return playSite(t, client, nil, func(s *site, rt http.RoundTripper) figure {
		return s.eachGet(rt, 50, true, "/slow")
	})
}

// playNoKeepAlives sends requests one after another with DisableKeepAlives.
func playNoKeepAlives(t *testing.T, client string) figure {
	set := func(tr *http.Transport) { tr.DisableKeepAlives = true }
	return playSite(t, client, set, func(s *site, rt http.RoundTripper) figure {
		return s.eachGet(rt, 20, false, "/")
	})
}

// playWideHeader requests a response with a header of 500 kB.
func playWideHeader(t *testing.T, client string) figure {
	return playSite(t, client, nil, func(s *site, rt http.RoundTripper) figure {
		return s.eachGet(rt, 1, false, "/wide")
	})
}

// A figureRow is one row of the table, with the figure of each client. The figure is nil if the
// client does not have the feature.
type figureRow struct {
	name     string
	compared string // what may not be worse than with net/http
	figures  [3]*figure
}

// run plays the scenario with each client.
func (s scenario) run(t *testing.T) (row figureRow) {
	row.name, row.compared = s.name, "failed"
	if s.dials {
		row.compared += ", connections"
	}
	if s.took {
		row.compared += ", time"
	}
	for i, client := range clients {
		if client == s.lacks {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			f := s.play(t, client)
			row.figures[i] = &f
			time.Sleep(time.Minute) // lets background work of the client end
		})
	}
	return row
}

func (r figureRow) String() string {
	cells := "| " + r.name + " | " + r.compared
	for _, f := range r.figures {
		if f == nil {
			cells += " | –"
			continue
		}
		cells += fmt.Sprintf(" | %d of %d, %d, %.2f s", f.bad, f.of, f.dials, f.took.Seconds())
	}
	return cells + " |"
}

// parseFigureRow parses what String has returned.
func parseFigureRow(line string) (r figureRow, err error) {
	cells := strings.Split(strings.Trim(line, "| "), " | ")
	if len(cells) != 2+len(clients) {
		return r, fmt.Errorf("%q has %d cells", line, len(cells))
	}
	r.name, r.compared = cells[0], cells[1]
	for i, cell := range cells[2:] {
		if cell == "–" {
			continue
		}
		f, seconds := &figure{}, ""
		if _, err := fmt.Sscanf(cell, "%d of %d, %d, %s s", &f.bad, &f.of, &f.dials, &seconds); err != nil {
			return r, fmt.Errorf("%q: %w", cell, err)
		}
		n, err := strconv.ParseFloat(seconds, 64)
		if err != nil {
			return r, err
		}
		f.took = time.Duration(n * float64(time.Second))
		r.figures[i] = f
	}
	return r, nil
}

// judge compares the figures of hyper's clients with those of net/http.
func (s scenario) judge(t *testing.T, from string, r figureRow) {
	t.Helper()
	theirs := r.figures[0]
	for i, f := range r.figures {
		switch {
		case f == nil || i == 0:
		case f.bad > theirs.bad:
			t.Errorf("%s: %s has %d of %d, net/http %d", from, clients[i], f.bad, f.of, theirs.bad)
		case s.dials && f.dials > theirs.dials:
			t.Errorf("%s: %s made %d connections, net/http %d", from, clients[i], f.dials, theirs.dials)
		case s.took && f.took > theirs.took+theirs.took/10:
			t.Errorf("%s: %s took %v, net/http %v", from, clients[i], f.took, theirs.took)
		}
	}
}

// agree compares the figures of a run with the table. The number of failures must be the same.
// Connections and time depend on the scheduler: if they are compared with net/http's, they may not
// be much more than in the table.
func (s scenario) agree(t *testing.T, written, got figureRow) {
	t.Helper()
	if written.compared != got.compared {
		t.Errorf("the table compares %q, the run %q", written.compared, got.compared)
	}
	for i := 1; i < len(clients); i++ {
		w, g := written.figures[i], got.figures[i]
		switch {
		case w == nil && g == nil:
		case w == nil || g == nil:
			t.Errorf("%s: the table has %v, the run %v", clients[i], w, g)
		case g.bad != w.bad || g.of != w.of,
			s.dials && g.dials > w.dials+w.dials/2+3,
			s.took && g.took > 2*w.took+time.Second:
			t.Errorf("%s: the run gave %v, the table has %v", clients[i], g, w)
		}
	}
}

// figuresHead is the text before the table.
const figuresHead = `# What requests come to beside net/http

Each row is a scenario, played by scripted peers in virtual time. A cell says how many requests
failed, or what else its row counts, how many connections were made, and how long it took. What
"compared" names is never worse with hyper than with net/http: else TestFigures fails. A client that
makes 1,000 connections gets no more. Written by

	go test ./internal/hypertest -run TestFigures -args -update

`

// A run gives the figures of the table, and no figure is worse than net/http's.
func TestFigures(t *testing.T) {
	if h2test.Race {
		t.Skip("the race detector makes it take minutes")
	}
	written := readFigures(t)
	table := figuresHead + "| scenario | compared | " + strings.Join(clients, " | ") +
		" |\n|---|---|---|---|---|\n"
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			got := s.run(t)
			t.Log(got)
			table += got.String() + "\n"
			s.judge(t, "the run", got)
			if *updateFigures {
				return
			}
			row, ok := written[s.name]
			if !ok {
				t.Fatalf("%s has no such row", figuresFile)
			}
			delete(written, s.name)
			s.judge(t, figuresFile, row)
			s.agree(t, row, got)
		})
	}
	if *updateFigures {
		if err := os.WriteFile(figuresFile, []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// With -run for a single scenario, the other rows are not played and remain in written.
	if f := flag.Lookup("test.run"); !*updateFigures && !strings.Contains(f.Value.String(), "/") {
		for name := range written {
			t.Errorf("%s has a row that no scenario gives: %s", figuresFile, name)
		}
	}
}

// readFigures returns the rows of the table by name.
func readFigures(t *testing.T) map[string]figureRow {
	rows := make(map[string]figureRow)
	text, err := os.ReadFile(figuresFile)
	if err != nil && !*updateFigures {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| scenario") {
			continue
		}
		row, err := parseFigureRow(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		rows[row.name] = row
	}
	return rows
}
