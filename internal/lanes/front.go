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

// A Trouble is what happens to the first request on a connection.
type Trouble int

const (
	None    Trouble = iota
	Refused         // RST_STREAM with REFUSED_STREAM, and GOAWAY
	GoAway          // GOAWAY that says that the request was not processed
	Reset           // RST_STREAM with INTERNAL_ERROR, and GOAWAY
	Closed          // the connection is closed without notice
	Ended           // GOAWAY that says that the request may have been processed, and the connection is closed
	Silent          // nothing, until the client ends the connection
)

func (t Trouble) String() string {
	return [...]string{"none", "refused", "GOAWAY", "reset", "closed", "GOAWAY and closed", "silent"}[t]
}

// A Front is a load balancer before a server of Serve's. Each connection has the next of its
// troubles; one that has none is passed on to the server.
type Front struct {
	URL string

	l        *Lane
	backend  string
	mu       sync.Mutex // guards what follows
	troubles []Trouble
	met      int // troubles that a request met
}

// Front starts a front of the server at url.
func (l *Lane) Front(url string, troubles ...Trouble) *Front {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", h2test.ServerTLS("h2"))
	l.Must(err)
	l.Cleanup(func() { listener.Close() })
	addr := listener.Addr().String()
	f := &Front{URL: "https://" + addr, l: l, backend: strings.TrimPrefix(url, "https://"), troubles: troubles}
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

// serve has one connection.
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

// until reads frames until one is wanted. It returns false where the client leaves before that.
func until(peer *h2test.Peer, wanted func(h2test.Frame) bool) bool {
	for {
		frame, err := peer.Next()
		if err != nil || wanted(frame) {
			return err == nil
		}
	}
}

// pass hands conn on to the server.
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

// troubles are what Try puts a call through: each row is met by one call.
var troubles = [][]Trouble{{Refused}, {GoAway}, {Refused, GoAway}, {Reset}, {Closed}, {Ended}, {Silent}}

// Try makes a call through a front of the server at backend, once for each kind of trouble, and
// reports how it ended, and how many troubles it met. The context of a call that meets silence ends
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
			if row[0] == Ended { // net/http tells no more than that there was GOAWAY
				got = strings.Replace(got, "error unexpected EOF, ", "error ", 1)
				got = strings.Replace(got, "error unexpected EOF", "error ", 1)
			}
		}
		l.Report("%s, %v: %s; met %d", what, row, got, f.Met())
	}
}
