// Command goserver is net/http's server in a process of its own, so that tests can run it with a
// version of Go that they choose.
//
//	goserver PORT PLAINPORT CERT KEY ROOT
//
// It serves ROOT over TLS on PORT, and in cleartext on PLAINPORT. It prints its version, and a line
// for each request to /origin/slow. After SIGHUP new servers take the place of the old ones, on the
// same sockets. After SIGTERM it stops gracefully.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"gohyper.dev/hyper/internal/interop/origin"
)

// A site is one socket and the server that serves it now.
type site struct {
	socket *os.File
	now    *http.Server
	serve  func(*http.Server, net.Listener) error
}

func main() {
	port, plain, cert, key, root := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	handler := &origin.Handler{Root: root, Slow: func(id string) { fmt.Println("seen " + id) }}
	sites := []*site{
		{socket: listen(port), serve: func(s *http.Server, l net.Listener) error {
			return s.ServeTLS(l, cert, key)
		}},
		{socket: listen(plain), serve: (*http.Server).Serve},
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	fmt.Println("version " + runtime.Version())
	for _, s := range sites {
		s.start(handler)
	}
	for got := range signals {
		var stops sync.WaitGroup
		for _, s := range sites {
			old := s.now
			if got == syscall.SIGHUP {
				s.start(handler)
			}
			stops.Go(func() { old.Shutdown(context.Background()) })
		}
		if got == syscall.SIGTERM {
			stops.Wait()
			return
		}
	}
}

// listen returns a socket that listens on a port.
func listen(port string) *os.File {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		log.Fatal(err)
	}
	return socket
}

// start starts a server on the site's socket.
func (s *site) start(handler http.Handler) {
	l, err := net.FileListener(s.socket)
	if err != nil {
		log.Fatal(err)
	}
	s.now = &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	s.now.Protocols.SetHTTP2(true)
	s.now.Protocols.SetUnencryptedHTTP2(true)
	go s.serve(s.now, l)
}
