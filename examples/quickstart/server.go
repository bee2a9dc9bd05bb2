package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
)

// The pages of the server. A page that gzip makes smaller is sent with gzip.
var (
	paths = []string{"/", "/story", "/numbers", "/style.css"}
	pages = map[string]string{
		"/":          "Hello, HTTP/2!\n",
		"/story":     strings.Repeat("It was a dark and stormy night; the frames fell in torrents. ", 2000),
		"/numbers":   numbers(20_000),
		"/style.css": "body { font-family: serif }\n",
		"/logo.svg":  `<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>` + "\n",
	}
)

// startServer starts net/http's server on a free port.
func startServer() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", servePage)
	mux.HandleFunc("POST /echo", serveEcho)
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.StartTLS()
	return server
}

// servePage sends a page, and pushes /logo.svg with the page /.
func servePage(w http.ResponseWriter, r *http.Request) {
	page, ok := pages[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if pusher, ok := w.(http.Pusher); ok && r.URL.Path == "/" {
		pusher.Push("/logo.svg", nil) // the client will need it
	}
	body := []byte(page)
	if zipped := gzipped(body); len(zipped) < len(body) &&
		strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		body = zipped
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

// serveEcho sends the body of the request back as it arrives.
func serveEcho(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	http.NewResponseController(w).Flush()
	io.CopyBuffer(struct{ io.Writer }{w}, r.Body, make([]byte, 256<<10))
}

// gzipped returns p, compressed with gzip.
func gzipped(p []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(p)
	w.Close()
	return b.Bytes()
}

// numbers returns the numbers below n, one a line.
func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strconv.Itoa(i))
		b.WriteByte('\n')
	}
	return b.String()
}
