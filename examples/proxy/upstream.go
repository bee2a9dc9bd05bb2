package main

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"
)

// startUpstream starts a server over TLS that speaks HTTP/2 and HTTP/1.1.
func startUpstream() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "Sum")
		fmt.Fprint(w, "a body")
		http.NewResponseController(w).Flush() // HTTP/1.1 has no trailers after a Content-Length
		w.Header().Set("Sum", "of "+r.Trailer.Get("Part"))
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("/socket", upgrade)
	mux.HandleFunc("/broken", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(10 * time.Second):
		}
	})
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.StartTLS()
	return server
}

// echo sends each part of the request's body back as it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	control.EnableFullDuplex()
	control.Flush()
	part := make([]byte, 1<<10)
	for {
		n, err := r.Body.Read(part)
		if n > 0 {
			w.Write(part[:n])
			control.Flush()
		}
		if err != nil {
			return
		}
	}
}

// upgrade accepts a WebSocket over HTTP/1.1, and then sends back what comes.
func upgrade(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	const id = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 §1.3
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + id))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(accept[:]))
	io.Copy(conn, buffered)
}
