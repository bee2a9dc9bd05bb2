package main

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
)

// A files is a server of resumable uploads, with one upload in memory: only its length and hash are
// kept. It fails once at each of the offsets in stops, by turns with RST_STREAM and with the end of
// the connection.
type files struct {
	server *httptest.Server

	mu    sync.Mutex
	sum   hash.Hash
	have  int64
	stops []int64
	fails int
}

// startServer starts a server of HTTP/2 over TLS on a loopback port.
func startServer(stops ...int64) *httptest.Server {
	f := &files{sum: sha256.New(), stops: stops}
	f.server = httptest.NewUnstartedServer(f)
	f.server.EnableHTTP2 = true
	f.server.StartTLS()
	return f.server
}

// ServeHTTP implements the server of draft-ietf-httpbis-resumable-upload.
func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := w.Header()
	h.Set("Upload-Draft-Interop-Version", "8")
	switch {
	case r.Method == "POST" && r.URL.Path == "/files":
		h.Set("Location", "/files/1")
		w.WriteHeader(104) // Upload Resumption Supported
		h.Del("Location")
		f.sum.Reset()
		f.have = 0
		f.receive(w, r)
	case r.URL.Path != "/files/1":
		http.NotFound(w, r)
	case r.Method == "HEAD":
		h.Set("Cache-Control", "no-store")
		h.Set("Upload-Complete", "?0")
		h.Set("Upload-Offset", strconv.FormatInt(f.have, 10))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == "PATCH" && r.Header.Get("Upload-Offset") == strconv.FormatInt(f.have, 10):
		f.receive(w, r)
	case r.Method == "PATCH":
		http.Error(w, "another offset", http.StatusConflict)
	default:
		http.Error(w, "unknown method", http.StatusMethodNotAllowed)
	}
}

// receive takes the request's content and answers with all that was received. It fails at the next
// stop.
func (f *files) receive(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	stops := len(f.stops) > 0
	if stops {
		body = io.LimitReader(r.Body, f.stops[0]-f.have)
	}
	n, err := io.Copy(f.sum, body)
	f.have += n
	switch {
	case err != nil:
	case !stops:
		fmt.Fprintf(w, "%d bytes, SHA-256 %x", f.have, f.sum.Sum(nil))
	default:
		f.stops = f.stops[1:]
		if f.fails++; f.fails%2 == 0 {
			f.server.CloseClientConnections()
		}
		panic(http.ErrAbortHandler) // the stream is reset
	}
}
