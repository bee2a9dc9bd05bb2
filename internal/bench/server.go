package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	"gohyper.dev/hyper/internal/bench/floor"
	"gohyper.dev/hyper/internal/bench/work"
	"gohyper.dev/hyper/internal/h2test"
)

// serve is the server's process, which is net/http's server at addr, whose port is 0 for a free
// one. It writes its address as the first line to out.
func serve(addr string, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:   withGRPC(site()),
		TLSConfig: h2test.ServerTLS("h2"),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 20000, MaxReadFrameSize: 1 << 20,
			MaxReceiveBufferPerConnection: 16 << 20, MaxReceiveBufferPerStream: 16 << 20},
		MaxHeaderBytes: 1 << 20,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	fmt.Fprintln(out, listener.Addr())
	return s.ServeTLS(listener, "", "")
}

// serveFloor is the process of a server that does little. It writes its address as the first line
// to out.
func serveFloor(out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, listener.Addr())
	return floor.Serve(listener, h2test.ServerTLS("h2"))
}

// site returns the server's pages.
func site() http.Handler {
	mux := http.NewServeMux()
	zeros := make([]byte, 1<<20)
	body := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(n))
			w.Write(zeros[:n])
		}
	}
	mux.HandleFunc("/0", body(0))
	mux.HandleFunc("/1k", body(1<<10))
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	var received atomic.Int64
	mux.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 256<<10)
		for {
			n, err := r.Body.Read(buf)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	// The response has 1 KiB: how many bytes /up has received, and spaces.
	mux.HandleFunc("/received", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%1024d", received.Load())
	})
	// The response has n fields and no body.
	mux.HandleFunc("/fields", func(w http.ResponseWriter, r *http.Request) {
		for i := range number(r, "n") {
			w.Header().Set(fmt.Sprintf("X-Bench-%03d", i), fmt.Sprintf("the value of field %d", i))
		}
	})
	// The response has n DATA frames of size bytes each.
	mux.HandleFunc("/frames", func(w http.ResponseWriter, r *http.Request) {
		out, size := http.NewResponseController(w), number(r, "size")
		for range number(r, "n") {
			if _, err := w.Write(zeros[:size]); err != nil {
				return
			}
			out.Flush()
		}
	})
	return mux
}

// number returns a number in the query.
func number(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.URL.Query().Get(name))
	return n
}

// withGRPC returns a handler that responds to calls of gRPC, and leaves the rest to next. /hang
// never responds; the response to any other path is a message of 1 KiB.
func withGRPC(next http.Handler) http.Handler {
	body := work.GRPCMessage(1 << 10)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/grpc" {
			next.ServeHTTP(w, r)
			return
		}
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
			return
		}
		io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("Trailer", "Grpc-Status")
		w.Write(body)
		h.Set("Grpc-Status", "0")
	})
}
