package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
)

// startServer starts a server whose events are numbers. Each of its responses has three events, and
// ends in another way than the one before.
func startServer() *httptest.Server {
	var responses atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last, _ := strconv.Atoi(r.Header.Get("Last-Event-ID")) // 0: from the beginning
		turn := responses.Add(1) % 3
		w.Header().Set("Content-Type", "text/event-stream")
		if turn == 2 {
			w.Header().Set("Connection", "close") // over HTTP/2 that is GOAWAY
		}
		fmt.Fprint(w, ": a comment\nretry: 20\n\n")
		for i := range 3 {
			fmt.Fprintf(w, "id: %d\nevent: number\ndata: %[1]d,\ndata: and so on\n\n", last+1+i)
			w.(http.Flusher).Flush()
		}
		if turn == 0 {
			fmt.Fprintf(w, "id: %d\ndata: half an event\n", last+4)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler) // RST_STREAM
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	return server
}
