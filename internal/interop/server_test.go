package interop

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A server is a row of the table: how to start it, and what it cannot do.
type server struct {
	name    string
	title   string // its name in README.md; empty: it is not there
	start   func(t *testing.T, s *site) *running
	codings []string          // content codings that it offers for text.txt
	echoes  bool              // it returns an upload itself, not its SHA-256
	paths   map[string]string // its path for a usual path, if it differs
	lacks   map[string]string // the reason why it cannot do a check, by the check's name
	// keepAlive is Config.KeepAlive of connections to it.
	keepAlive time.Duration
	// own are checks that this server needs in another form, by the check's name.
	own map[string]func(testing.TB, *running)
	// fetch is fetchPage in its own form; nil: it serves pages.
	fetch func(ctx context.Context, rt http.RoundTripper, url string) (io.ReadCloser, error)
}

// path returns the server's path for a usual path.
func (s *server) path(usual string) string {
	if p := s.paths[usual]; p != "" {
		return p
	}
	return usual
}

// A running is a server that was started.
type running struct {
	*server
	*site
	ctx     context.Context // of the current check
	addr    string          // for hyper.Dial
	plain   string          // as addr, in cleartext; empty: addr is in cleartext
	version string
	// seen reports whether the server acted on the request with this x-request. It is called last.
	seen func(id string) bool
	stop func(context.Context) // stops it gracefully
	also map[string]string     // as lacks, for this version of the server

	restart func(*testing.T) // kills the server and starts it again; nil: it runs in this process
	reload  func()           // makes it read its configuration again; nil: it cannot do that
}

// page returns the body of the page at url, in the server's own form.
func (r *running) page(ctx context.Context, rt http.RoundTripper, url string) (io.ReadCloser, error) {
	if r.fetch != nil {
		return r.fetch(ctx, rt, url)
	}
	return fetchPage(ctx, rt, url)
}

// why returns the reason why the server cannot do a check. It is empty if the server can.
func (r *running) why(check string) string { return cmp.Or(r.lacks[check], r.also[check]) }

// dial connects to the server.
func (r *running) dial(t testing.TB, cfg hyper.Config) *hyper.Conn {
	t.Helper()
	return r.dialTo(t, r.addr, cfg)
}

// dialTo connects to the server at addr.
func (r *running) dialTo(t testing.TB, addr string, cfg hyper.Config) *hyper.Conn {
	t.Helper()
	if cfg.TLS == nil {
		cfg.TLS = h2test.ClientTLS()
	}
	cfg.KeepAlive = r.keepAlive
	conn, err := hyper.Dial(r.ctx, addr, &cfg)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Reasons that several servers share.
const (
	static    = "it serves files"
	swallowed = "it does not forward them"
	no100     = "it waits for the body without a word"
	noPush    = "it does not push"
	noConnect = "it does not offer it"
	buffers   = "it buffers a request before it acts"
	noReload  = "it cannot reload"
	noUrgency = "both responses arrive at the same time"
	noLength  = "it responds with 411 to a body without a content-length"
)

// servers are the rows of the table.
var servers = []*server{
	{
		name:    "go126",
		title:   "Go 1.26",
		start:   startGo(go126()),
		codings: []string{"gzip"},
		lacks:   map[string]string{"UrgentFirst": noUrgency},
	},
	{
		name:    "go127",
		title:   "Go 1.27",
		start:   startGo("go1.27.4"),
		codings: []string{"gzip"},
		lacks:   map[string]string{"UrgentFirst": noUrgency},
	},
	{
		name:    "go-cleartext",
		start:   startGoCleartext,
		codings: []string{"gzip"},
		lacks: map[string]string{
			"TLS12":       "no TLS",
			"Cleartext":   "the other checks use it",
			"Reload":      noReload,
			"UrgentFirst": noUrgency,
		},
	},
	{
		name:    "node",
		title:   "Node",
		start:   startNode,
		codings: []string{"gzip", "br", "deflate"},
		lacks:   map[string]string{"UrgentFirst": noUrgency},
	},
	{
		name:   "nghttpd",
		title:  "nghttpd",
		start:  startNghttpd,
		echoes: true,
		paths: map[string]string{"/origin/sum": "/small.txt", "/origin/trailers": "/small.txt",
			"/origin/cookies": "/small.txt"},
		lacks: map[string]string{
			"Echo":            buffers,
			"Codings":         "it compresses no pages",
			"RequestTrailers": static,
			"Interim":         static,
			"LongHeader":      static,
			"Continuation":    static,
			"Connect":         noConnect,
			"ExtendedConnect": noConnect,
			"Reload":          noReload,
			"GracefulStop":    "it ends at once",
			"Redirects":       static,
			"Restart":         static,
		},
	},
	{
		name:    "h2o",
		title:   "h2o",
		start:   startH2O,
		codings: []string{"gzip", "br"},
		paths:   map[string]string{"/page": "/origin/page"},
		lacks: map[string]string{
			"Echo":            buffers,
			"Trailers":        swallowed,
			"RequestTrailers": swallowed,
			"Interim":         swallowed,
			"Continue":        no100,
			"Connect":         noConnect,
			"ExtendedConnect": noConnect,
			"UrgentFirst":     noUrgency,
		},
	},
	{
		name:    "nginx",
		title:   "nginx",
		start:   startNginx,
		codings: []string{"gzip"},
		lacks: map[string]string{
			"Trailers":        swallowed,
			"RequestTrailers": "it ends the connection with PROTOCOL_ERROR",
			"Interim":         "it takes one for the final response",
			"Continue":        no100,
			"Connect":         noConnect,
			"ExtendedConnect": noConnect,
			"UrgentFirst":     noUrgency,
		},
	},
	{
		name:    "apache2",
		title:   "Apache httpd",
		start:   startApache,
		codings: []string{"gzip", "br"},
		lacks: map[string]string{
			"Echo":            buffers,
			"RequestTrailers": swallowed,
			"Connect":         noConnect,
			"UrgentFirst":     noUrgency,
			"Reload": "a graceful restart ends its connections with an error of its HTTP/2 library, " +
				"for net/http's client, too",
		},
		own: map[string]func(testing.TB, *running){"ExtendedConnect": checkWebSocket},
	},
	{
		name:    "haproxy",
		title:   "HAProxy",
		start:   startHAProxy,
		codings: []string{"gzip"},
		lacks: map[string]string{
			"Push":        noPush,
			"UrgentFirst": noUrgency,
		},
	},
	{
		name:    "lighttpd",
		title:   "lighttpd",
		start:   startLighttpd,
		codings: []string{"gzip", "br", "deflate"},
		// At times lighttpd 1.4.69 stops in the middle of a response, with windows open, until it
		// receives another frame.
		keepAlive: time.Second,
		lacks: map[string]string{
			"UploadOfUnknownLength": noLength,
			"Echo":                  noLength,
			"Trailers":              "it makes them header fields with a CR at the end, which is malformed",
			"RequestTrailers":       swallowed,
			"Interim":               "it sends field names with capitals, which is malformed",
			"Push":                  noPush,
			"Connect":               noConnect,
			"UrgentFirst":           noUrgency,
		},
		own: map[string]func(testing.TB, *running){"ExtendedConnect": checkWebSocket},
	},
	{
		name:    "caddy",
		title:   "Caddy",
		start:   startCaddy,
		codings: []string{"gzip"},
		lacks: map[string]string{
			"UrgentFirst": noUrgency,
		},
		own: map[string]func(testing.TB, *running){"ExtendedConnect": checkWebSocket},
	},
	{
		name:  "grpc-go",
		title: "grpc-go",
		start: startGRPC,
		fetch: fetchCall,
		own:   grpcChecks,
		lacks: map[string]string{
			"Get":                   callsOnly,
			"Head":                  callsOnly,
			"TLS12":                 callsOnly,
			"NotFound":              callsOnly,
			"SmallWindow":           callsOnly,
			"FullWindow":            callsOnly,
			"UploadOfUnknownLength": callsOnly,
			"CloseMidway":           callsOnly,
			"LongHeader":            callsOnly,
			"Continuation":          callsOnly,
			"Cookies":               callsOnly,
			"PushOff":               callsOnly,
			"GracefulStop":          callsOnly,
			"Codings":               "gRPC compresses messages, not bodies",
			"RequestTrailers":       noneInGRPC,
			"Interim":               noneInGRPC,
			"Continue":              noneInGRPC,
			"ContinueUnasked":       noneInGRPC,
			"Push":                  noPush,
			"Connect":               noConnect,
			"ExtendedConnect":       noConnect,
			"UrgentFirst":           noUrgency,
		},
	},
}
