package main

import (
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// A site is one of the servers, with the faults that it has.
type site struct {
	name     string
	faults   faults
	streams  int           // MAX_CONCURRENT_STREAMS
	restarts time.Duration // the mean time between restarts; 0: none
	pauses   bool          // each worker has its own connection, which is idle between exchanges
	idle     time.Duration // the server ends connections that were idle for this long; 0: never

	l    *ledger
	pool []slot

	mu       sync.Mutex
	server   *http.Server
	listener *faultListener
	old      sync.WaitGroup // servers that are shutting down
}

// newSites starts all sites.
func newSites(l *ledger, seed uint64, workers int) ([]*site, error) {
	sites := []*site{
		{name: "plain", streams: 250},
		{name: "few streams", streams: 5, faults: faults{short: 0.3}},
		{name: "bad network", streams: 100, faults: faults{cut: 0.7, short: 0.3, delay: 0.3}},
		{name: "restarts", streams: 50, restarts: time.Second, faults: faults{delay: 0.2}},
		{name: "pauses", streams: 100, pauses: true, faults: faults{cut: 0.3}},
		{name: "short pauses", streams: 100, pauses: true, idle: writerStays},
	}
	for i, s := range sites {
		s.l, s.pool = l, make([]slot, 2)
		if s.pauses {
			s.pool = make([]slot, workers)
		}
		if err := s.start(mix(seed, int64(i))); err != nil {
			return nil, err
		}
	}
	return sites, nil
}

// start replaces the server with a new one.
func (s *site) start(seed uint64) error {
	listener, err := listenFaulty(s.faults, seed)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /down/{seed}/{size}/{how}", s.down)
	mux.HandleFunc("PUT /up/{seed}/{size}/{how}", s.up)
	mux.HandleFunc("POST /echo/{seed}/{size}/{how}", s.echo)
	server := &http.Server{
		Handler:     mux,
		TLSConfig:   h2test.ServerTLS("h2"),
		IdleTimeout: s.idle,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: s.streams, CountError: s.fault},
		ErrorLog:    log.New(serverLog{s.l}, "", 0),
	}
	go server.ServeTLS(listener, "", "")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.listener = server, listener
	return nil
}

// restart replaces the server. The old one ends with Shutdown or Close.
func (s *site) restart(rng *rand.Rand) error {
	s.mu.Lock()
	server, listener := s.server, s.listener
	s.mu.Unlock()
	if err := s.start(rng.Uint64()); err != nil {
		return err
	}
	s.l.restarts.Add(1)
	// Even with Shutdown, net/http closes idle connections without a GOAWAY.
	listener.forRestart()
	if rng.IntN(2) == 0 {
		server.Close()
		return nil
	}
	s.old.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		server.Shutdown(ctx)
		server.Close()
	})
	return nil
}

// keepRestarting restarts the server from time to time until ctx ends.
func (s *site) keepRestarting(ctx context.Context, rng *rand.Rand) {
	for s.restarts > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.restarts/2 + time.Duration(rng.Int64N(int64(s.restarts)))):
			if err := s.restart(rng); err != nil {
				s.l.violate(err)
			}
		}
	}
}

// stop stops the server.
func (s *site) stop() {
	s.server.Close()
	s.old.Wait()
}

// at returns the server's address and its listener.
func (s *site) at() (addr string, listener *faultListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener.Addr().String(), s.listener
}

// fault records an error that net/http attributes to its client. Two kinds are not errors of the
// client: DATA that was on its way to a stream that the server has just ended, and streams above a
// limit that the server had not yet announced.
func (s *site) fault(what string) {
	if !strings.HasSuffix(what, "_closed") && !strings.HasSuffix(what, "over_max_streams_race") {
		s.l.violate(fmt.Errorf("the server %q counts an error of the client: %s", s.name, what))
		return
	}
	s.l.explain("server: " + what)
}

// A serverLog records the log messages of the servers.
type serverLog struct{ l *ledger }

// Write records one message.
func (w serverLog) Write(p []byte) (int, error) {
	if line := strings.TrimSpace(string(p)); strings.Contains(line, "TLS handshake error") {
		w.l.explain("server: TLS handshake ended")
	} else {
		w.l.violate(fmt.Errorf("a server says: %s", line))
	}
	return len(p), nil
}

// asked parses a request, records it, and repeats it in the header of the response.
func (s *site) asked(w http.ResponseWriter, r *http.Request) (seed uint64, size int64, how string) {
	seed, _ = strconv.ParseUint(r.PathValue("seed"), 10, 64)
	size, _ = strconv.ParseInt(r.PathValue("size"), 10, 64)
	if id, err := strconv.ParseUint(r.Header.Get("X-Request"), 10, 64); err == nil { // pushed ones have none
		s.l.process(id)
	}
	how = r.PathValue("how")
	w.Header().Set("X-Site", s.name)
	w.Header().Set("X-How", how)
	if r.Header.Get("X-Echo") != "" {
		w.Header().Set("X-Request", r.Header.Get("X-Request"))
	}
	return seed, size, how
}

// down sends a body. how selects the manner.
func (s *site) down(w http.ResponseWriter, r *http.Request) {
	seed, size, how := s.asked(w, r)
	w.Header().Set("Trailer", "X-Sum")
	body := &source{seed: seed, size: size}
	var coded io.WriteCloser
	switch how {
	case "push":
		if pusher, ok := w.(http.Pusher); ok {
			for i := range uint64(2) { // the client's SETTINGS say whether it accepts pushes
				pusher.Push(downPath(seed+1+i, size/4, "plain"), nil)
			}
		}
	case "length":
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	case "gzip":
		coded, _ = gzip.NewWriterLevel(w, gzip.BestSpeed)
	case "deflate":
		coded, _ = zlib.NewWriterLevel(w, zlib.BestSpeed)
	case "abort":
		io.CopyN(w, body, size/2)
		panic(http.ErrAbortHandler)
	}
	if coded != nil {
		w.Header().Set("Content-Encoding", how)
		io.Copy(coded, body)
		coded.Close()
	} else {
		io.CopyBuffer(struct{ io.Writer }{w}, body, make([]byte, 32<<10))
	}
	w.Header().Set("X-Sum", strconv.FormatInt(size, 10))
}

// downPath returns the path of a request for down.
func downPath(seed uint64, size int64, how string) string {
	return fmt.Sprintf("/down/%d/%d/%s", seed, size, how)
}

// up receives a body.
func (s *site) up(w http.ResponseWriter, r *http.Request) {
	seed, size, how := s.asked(w, r)
	body := &checker{seed: seed, size: size}
	if err := s.check(w, r, body, how); err != nil {
		return // the client has ended, or the ledger has the error
	}
	fmt.Fprint(w, size)
}

// check reads a request's body and trailers and checks them.
func (s *site) check(w io.Writer, r *http.Request, body *checker, how string) error {
	var to io.Writer = body
	if r.Method == "POST" {
		to = io.MultiWriter(body, w)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		s.l.up.Add(int64(n))
		if n > 0 {
			if _, err := to.Write(buf[:n]); errors.As(err, new(mismatch)) {
				s.l.violate(fmt.Errorf("upload %s: %w", r.URL.Path, err))
				return err
			} else if err != nil {
				return err
			}
		}
		if f, ok := w.(http.Flusher); ok && r.Method == "POST" {
			f.Flush()
		}
		if how == "slow" {
			time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Millisecond))))
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	err := body.whole()
	if want := strconv.FormatInt(body.size, 10); err == nil && how == "trailer" &&
		r.Trailer.Get("X-Sum") != want {
		err = fmt.Errorf("the trailers are %v", r.Trailer)
	}
	if err != nil {
		s.l.violate(fmt.Errorf("upload %s: %w", r.URL.Path, err))
	}
	return err
}

// echo sends the body back while it arrives.
func (s *site) echo(w http.ResponseWriter, r *http.Request) {
	seed, size, how := s.asked(w, r)
	w.Header().Set("Trailer", "X-Sum")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	if err := s.check(w, r, &checker{seed: seed, size: size}, how); err == nil {
		w.Header().Set("X-Sum", strconv.FormatInt(size, 10))
	}
}

// clientTLS returns a TLS configuration that trusts the sites.
func clientTLS() *tls.Config { return h2test.ClientTLS() }
