package lanes

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// A Trouble is what a Front does with the first request on a connection.
type Trouble int

// The troubles.
const (
	None    Trouble = iota
	Refused         // RST_STREAM with REFUSED_STREAM, then GOAWAY
	GoAway          // GOAWAY that says that the request was not processed
	Reset           // RST_STREAM with INTERNAL_ERROR, then GOAWAY
	Closed          // the connection is closed without a frame
	// GOAWAY that says that the request may have been processed, then the connection is closed.
	Ended
	Silent // nothing until the client ends the connection
)

// String returns the name of the trouble.
func (t Trouble) String() string {
	return [...]string{"none", "refused", "GOAWAY", "reset", "closed", "GOAWAY and closed", "silent"}[t]
}

// A Front is a load balancer in front of a server that Serve started. Each connection takes the
// next of its troubles. A connection without trouble is passed on to the server.
type Front struct {
	URL string

	l        *Lane
	backend  string
	mu       sync.Mutex // guards the fields below
	troubles []Trouble
	met      int // the number of troubles that a request met
}

// Front starts a Front for the server at url.
func (l *Lane) Front(url string, troubles ...Trouble) *Front {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", h2test.ServerTLS("h2"))
	l.Must(err)
	l.Cleanup(func() { listener.Close() })
	addr := listener.Addr().String()
	f := &Front{URL: "https://" + addr, l: l, backend: strings.TrimPrefix(url, "https://"),
		troubles: troubles}
	l.Alias(addr)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.serve(conn)
		}
	}()
	return f
}

// Met returns how many of the troubles a request met.
func (f *Front) Met() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.met
}

// serve handles one connection.
func (f *Front) serve(conn net.Conn) {
	defer conn.Close()
	f.mu.Lock()
	trouble := None
	if len(f.troubles) > 0 {
		trouble, f.troubles = f.troubles[0], f.troubles[1:]
	}
	f.mu.Unlock()
	if trouble == None {
		f.pass(conn)
		return
	}
	peer := h2test.NewPeer(f.l, conn)
	peer.AutoPing()
	peer.Handshake()
	if !until(peer, func(frame h2test.Frame) bool { return frame.Type == wire.Headers }) {
		return
	}
	f.mu.Lock()
	f.met++
	f.mu.Unlock()
	switch trouble {
	case Refused:
		peer.WriteRSTStream(1, wire.RefusedStream)
		peer.WriteGoAway(1, wire.NoError, "")
	case GoAway:
		peer.WriteGoAway(0, wire.NoError, "")
	case Reset:
		peer.WriteRSTStream(1, wire.InternalError)
		peer.WriteGoAway(1, wire.NoError, "")
	case Ended:
		peer.WriteGoAway(1, wire.NoError, "")
		return
	case Closed:
		return
	}
	until(peer, func(h2test.Frame) bool { return false })
}

// until reads frames until one is wanted. It returns false if the connection ends before.
func until(peer *h2test.Peer, wanted func(h2test.Frame) bool) bool {
	for {
		frame, err := peer.Next()
		if err != nil || wanted(frame) {
			return err == nil
		}
	}
}

// pass forwards conn to the server.
func (f *Front) pass(conn net.Conn) {
	config := h2test.ClientTLS()
	config.NextProtos = []string{"h2"}
	server, err := tls.Dial("tcp", f.backend, config)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer conn.Close()
		io.Copy(conn, server)
	}()
	io.Copy(server, conn)
}

// troubles are the troubles that Try uses, one row for each call.
var troubles = [][]Trouble{{Refused}, {GoAway}, {Refused, GoAway}, {Reset}, {Closed}, {Ended}, {Silent}}

// Try makes a call through a Front of the server at backend for each row of troubles, and reports
// how the call ended and how many troubles it met. The context of a call that gets no response ends
// after a second.
func (l *Lane) Try(what, backend string, call func(ctx context.Context, url string) (string, error)) {
	l.Helper()
	l.Loose = true
	for _, row := range troubles {
		f := l.Front(backend, row...)
		limit := time.Minute
		if row[0] == Silent {
			limit = time.Second
		}
		ctx, cancel := context.WithTimeout(l.Context(), limit)
		got, err := call(ctx, f.URL)
		cancel()
		if err != nil {
			l.Logf("%s, %v: %v", what, row, err)
			got = "error " + Class(err)
			if row[0] == Ended { // net/http only tells that there was GOAWAY
				got = strings.Replace(got, "error unexpected EOF, ", "error ", 1)
				got = strings.Replace(got, "error unexpected EOF", "error ", 1)
			}
		}
		l.Report("%s, %v: %s; met %d", what, row, got, f.Met())
	}
}
