package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A crowdedServer is a server that accepts less than its clients send, and reports correctly which
// requests it has not processed.
type crowdedServer struct {
	t         *testing.T
	announce  []wire.Setting
	limit     int  // concurrent streams on a connection, others are refused; 0: no limit
	perConn   int  // requests on a connection, then GOAWAY; 0: no limit
	firstOnly bool // perConn and refuse apply to the first connection only
	refuse    bool // refuse all requests
	goAway    bool // send GOAWAY at once and process nothing
	strict    bool // a stream beyond limit is a connection error
	silent    bool // the first connection sends nothing after its first response
	tls       bool

	mu    *sync.Mutex
	dials int
	seen  map[string]int // how often each path was processed
}

// mostDials stops a client that reconnects forever without a pause.
const mostDials = 1000

// dial makes a connection to the server.
func (s *crowdedServer) dial(context.Context, string, string) (net.Conn, error) {
	client, server := h2test.Pipe()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dials++; s.dials >= mostDials {
		return nil, errors.New("too many connections")
	}
	conn := *s
	if s.firstOnly && s.dials > 1 {
		conn.perConn, conn.refuse = 0, false
	}
	conn.silent = s.silent && s.dials == 1
	var end net.Conn = server
	if s.tls {
		end = h2test.TLSServer(server, "h2")
	}
	peer := h2test.NewPeer(s.t, end)
	if conn.silent {
		peer.Ignore(wire.Ping)
	} else {
		peer.AutoPing()
	}
	go conn.serve(peer)
	return client, nil
}

// serve plays the server on one connection.
func (s *crowdedServer) serve(peer *h2test.Peer) {
	peer.WriteSettings(s.announce...)
	open, requests, last := make(chan struct{}, 1<<16), 0, uint32(0)
	var writing sync.Mutex
	for {
		f, err := peer.Next()
		switch {
		case err != nil && err.Error() == "nothing":
			continue
		case err != nil:
			return
		case f.Type == wire.Settings && !f.Flags.Has(wire.Ack):
			writing.Lock()
			peer.WriteSettingsAck()
			writing.Unlock()
		case s.silent && requests > 0:
		case f.Type == wire.Headers && s.strict && len(open) >= s.limit:
			peer.WriteGoAway(last, wire.ProtocolError, "")
			peer.Close()
			return
		case f.Type == wire.Headers && s.goAway:
			writing.Lock()
			peer.WriteGoAway(0, wire.NoError, "")
			writing.Unlock()
		case f.Type == wire.Headers && last > 0: // above the last stream of GOAWAY
		case f.Type == wire.Headers && (s.refuse || s.limit > 0 && len(open) >= s.limit):
			writing.Lock()
			peer.WriteRSTStream(f.StreamID, wire.RefusedStream)
			writing.Unlock()
		case f.Type == wire.Headers:
			open <- struct{}{}
			if requests++; requests == s.perConn {
				last = f.StreamID
				writing.Lock()
				peer.WriteGoAway(last, wire.NoError, "")
				writing.Unlock()
			}
			s.mu.Lock()
			s.seen[f.Headers.Get(":path")]++
			s.mu.Unlock()
			go func() {
				time.Sleep(10 * time.Millisecond)
				writing.Lock()
				defer writing.Unlock()
				<-open
				peer.WriteHeaders(f.StreamID, wire.EndStream, ":status: 204")
			}()
		}
	}
}

// ask sends requests for so many different paths with so many concurrent callers. It returns how
// many requests failed, and one of the errors.
func (s *crowdedServer) ask(rt http.RoundTripper, callers, requests int) (failed int, last error) {
	paths := make(chan string, requests)
	for i := range requests {
		paths <- fmt.Sprint("/", i)
	}
	close(paths)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range callers {
		wg.Go(func() {
			for path := range paths {
				req, _ := http.NewRequestWithContext(s.t.Context(), "POST", "http://example.com"+path,
					strings.NewReader("once"))
				resp, err := rt.RoundTrip(req)
				if err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					continue
				}
				mu.Lock()
				failed, last = failed+1, err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed, last
}

// connect prepares s and returns the client of that name, one of clients, which connects with dial.
// It speaks cleartext unless tls is set: hundreds of TLS handshakes would take long and show
// nothing more.
func (s *crowdedServer) connect(t *testing.T, client string, dial dialFunc) http.RoundTripper {
	s.t, s.mu, s.seen = t, new(sync.Mutex), map[string]int{}
	switch {
	case client == "Transport":
		return transportDoor(t, dial, hyper.Config{})
	case client == "ConfigureTransport" && s.tls:
		return configuredDoor(t, dial, hyper.Config{})
	case client == "ConfigureTransport":
		return configuredCleartextDoor(t, dial, hyper.Config{})
	}
	tr := priorKnowledge(dial)
	if s.tls {
		tr = &http.Transport{DialContext: dial, TLSClientConfig: h2test.ClientTLS(), ForceAttemptHTTP2: true}
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// A crowdedRow is a crowdedServer and the requests that are sent to it.
type crowdedRow struct {
	name              string
	server            crowdedServer
	callers, requests int
}

// limitOf1 are the SETTINGS of a server that allows one stream.
var limitOf1 = []wire.Setting{{ID: wire.SettingMaxConcurrentStreams, Value: 1}}

// crowdedRows are the cases of TestRequestsAtACrowdedServerDoNotFail.
var crowdedRows = []crowdedRow{
	{"GoAwayAfterOneOf150", crowdedServer{perConn: 1, firstOnly: true}, 150, 150},
	{"GoAwayAfterOneOf500", crowdedServer{perConn: 1, firstOnly: true}, 500, 500},
	{"AnnouncedLimitOf1With150Callers", crowdedServer{announce: limitOf1, limit: 1}, 150, 150},
	{"AnnouncedLimitOf1With600Callers", crowdedServer{announce: limitOf1, limit: 1}, 600, 600},
	{"HiddenLimitOf1With400Callers", crowdedServer{limit: 1}, 400, 400},
	{"HiddenLimitOf2With400Callers", crowdedServer{limit: 2}, 400, 400},
	{"TenRequestsAConnection", crowdedServer{perConn: 10}, 100, 1000},
	{"OneRequestAConnection", crowdedServer{perConn: 1}, 100, 400},
}

// play sends the requests of row with a client of transports. It also returns the server.
func (row crowdedRow) play(t *testing.T, client string) (f figure, s *crowdedServer) {
	s = &row.server
	rt := s.connect(t, client, s.dial)
	start := time.Now()
	failed, err := s.ask(rt, row.callers, row.requests)
	s.mu.Lock()
	defer s.mu.Unlock()
	return figure{bad: failed, of: row.requests, dials: s.dials, took: time.Since(start), err: err}, s
}

// RFC 9113 §8.7: a request that was refused, or whose stream is above the last stream of a GOAWAY,
// was not processed. Every such request succeeds in the end, however few requests a server accepts.
func TestRequestsAtACrowdedServerDoNotFail(t *testing.T) {
	for _, row := range crowdedRows {
		if h2test.Race { // the race detector is slow
			row.callers, row.requests = row.callers/4, row.requests/4
		}
		for _, client := range []string{"Transport", "ConfigureTransport"} {
			t.Run(row.name+"/"+client, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f, s := row.play(t, client)
					t.Log(f)
					if f.bad > 0 {
						t.Errorf("%d of %d failed, one with %v", f.bad, f.of, f.err)
					}
					s.mu.Lock()
					defer s.mu.Unlock()
					for path, n := range s.seen {
						if n != 1 {
							t.Errorf("%s was processed %d times", path, n)
						}
					}
				})
			})
		}
	}
}
