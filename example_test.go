package hyper_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"gohyper.dev/hyper"
)

// server is the server of the examples: Go's own HTTP/2 server, in this process.
var server = sync.OnceValue(func() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "this is %s", r.URL.Path)
	})
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
		if p, ok := w.(http.Pusher); ok {
			p.Push("/style.css", nil)
		}
		io.WriteString(w, "the page")
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d octets, %d announced", n, r.ContentLength)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.WriteString(z, strings.Repeat("hyper ", 100))
		z.Close()
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Checksum")
		io.WriteString(w, "content")
		w.Header().Set("Checksum", "9a0364b9")
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) { // sends no content-length
		for range 16 {
			w.Write(make([]byte, 64<<10))
			http.NewResponseController(w).Flush()
		}
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1048576")
		w.Write(make([]byte, 1<<20))
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "the page")
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "user", Value: r.PostFormValue("user")})
		http.Redirect(w, r, "/account", http.StatusSeeOther)
	})
	mux.HandleFunc("/account", func(w http.ResponseWriter, r *http.Request) {
		if user, err := r.Cookie("user"); err == nil {
			fmt.Fprintf(w, "welcome, %s", user.Value)
		}
	})
	mux.HandleFunc("/undated", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil // a date's length in HPACK depends on its digits
		io.WriteString(w, "at any time")
	})
	mux.HandleFunc("/broken", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.StartTLS()
	return s
})

var (
	ctx   = context.Background()
	roots = func() *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AddCert(server().Certificate())
		return pool
	}
	addr = func() string { return server().Listener.Addr().String() }
)

// dial connects to the examples' server, which has a self-signed certificate.
func dial(cfg hyper.Config) *hyper.Conn {
	cfg.TLS = &tls.Config{RootCAs: roots()}
	conn, err := hyper.Dial(ctx, addr(), &cfg)
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

func body(resp *hyper.Response, err error) string {
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	return string(b)
}

func Example() {
	conn, err := hyper.Dial(ctx, addr(), &hyper.Config{TLS: &tls.Config{RootCAs: roots()}})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	resp, err := conn.Get(ctx, "/hello")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.StatusCode, resp.Header.Get("content-type"))
	fmt.Printf("stream %d: %s\n", resp.StreamID, text)
	// Output:
	// 200 text/plain; charset=utf-8
	// stream 1: this is /hello
}

func ExampleConn_Close() {
	conn := dial(hyper.Config{})
	resp, err := conn.Get(ctx, "/")
	if err != nil {
		log.Fatal(err)
	}
	conn.Close()

	_, err = resp.Body.Read(make([]byte, 100))
	fmt.Println(errors.Is(err, hyper.ErrClosed), err)
	_, err = conn.Get(ctx, "/again")
	fmt.Println(errors.Is(err, hyper.ErrClosed), err)
	// Output:
	// true hyper: connection closed
	// true hyper: connection closed
}

func ExampleConn_Shutdown() {
	conn := dial(hyper.Config{})
	resp, err := conn.Get(ctx, "/last")
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- conn.Shutdown(ctx) }() // waits for the request below

	fmt.Println(body(resp, nil))
	fmt.Println(<-done, conn.Err())
	// Output:
	// this is /last
	// <nil> hyper: connection closed
}

func ExampleConn_Do_concurrently() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for i := range 100 {
		wg.Go(func() {
			text := body(conn.Do(ctx, &hyper.Request{Path: fmt.Sprintf("/item/%d", i%4)}))
			mu.Lock()
			answers[text]++
			mu.Unlock()
		})
	}
	wg.Wait()
	fmt.Println(answers)
	fmt.Println(conn.Stats().StreamsOpened, "streams on one connection")
	// Output:
	// map[this is /item/0:25 this is /item/1:25 this is /item/2:25 this is /item/3:25]
	// 100 streams on one connection
}

func ExampleDial_verification() {
	_, err := hyper.Dial(ctx, addr(), nil) // the system's roots do not know this server

	var unknown x509.UnknownAuthorityError
	fmt.Println(errors.As(err, &unknown))

	conn, err := hyper.Dial(ctx, addr(), &hyper.Config{TLS: &tls.Config{RootCAs: roots()}})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(conn.TLS().NegotiatedProtocol, tls.VersionName(conn.TLS().Version))
	// Output:
	// true
	// h2 TLS 1.3
}

func ExampleConn_Do_upload() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	// A length that can be known is announced; one that cannot need not be.
	upload := &hyper.Request{Method: "POST", Path: "/upload", Body: strings.NewReader("in memory")}
	fmt.Println(body(conn.Do(ctx, upload)))
	file, err := os.Open("testdata/frames/ping.hex")
	if err != nil {
		log.Fatal(err)
	}
	size, _ := file.Seek(0, io.SeekEnd)
	file.Seek(0, io.SeekStart)
	text := body(conn.Do(ctx, &hyper.Request{Method: "POST", Path: "/upload", Body: file}))
	fmt.Println(text == fmt.Sprintf("%d octets, %d announced", size, size))
	stream := io.MultiReader(strings.NewReader("of unknown "), strings.NewReader("length"))
	fmt.Println(body(conn.Do(ctx, &hyper.Request{Method: "POST", Path: "/upload", Body: stream})))
	// Output:
	// 9 octets, 9 announced
	// true
	// 17 octets, -1 announced
}

func ExampleConn_Open() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	stream, err := conn.Open(ctx, &hyper.Request{Method: "POST", Path: "/echo"})
	if err != nil {
		log.Fatal(err)
	}
	resp, err := stream.Response(ctx)
	if err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, line := range []string{"one", "two", "three"} {
		io.WriteString(stream, line)
		n, _ := resp.Body.Read(buf)
		fmt.Printf("stream %d: %s\n", stream.ID(), buf[:n])
	}
	stream.CloseWrite()
	_, err = resp.Body.Read(buf)
	fmt.Println(err)
	// Output:
	// stream 1: one
	// stream 1: two
	// stream 1: three
	// EOF
}

// A stream's end is not an error if both sides have ended it.
func ExampleStream_Done() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	for _, early := range []bool{false, true} {
		stream, err := conn.Open(ctx, &hyper.Request{Method: "POST", Path: "/echo"})
		if err != nil {
			log.Fatal(err)
		}
		io.WriteString(stream, "hello")
		if early {
			stream.Reset(hyper.ErrCodeCancel)
		} else {
			stream.CloseWrite()
			text, _ := io.ReadAll(stream)
			fmt.Printf("%s\n", text)
		}
		<-stream.Done()
		fmt.Println(stream.Err())
	}
	// Output:
	// hello
	// <nil>
	// hyper: stream 3: CANCEL: stream canceled by the caller
}

func ExampleResponse_Raw() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	fmt.Println(len(body(conn.Get(ctx, "/gzip"))), "octets decoded")

	resp, err := conn.Get(ctx, "/gzip")
	if err != nil {
		log.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Raw())
	fmt.Printf("%x… as sent, %s\n", raw[:2], resp.Header.Get("content-encoding"))
	// Output:
	// 600 octets decoded
	// 1f8b… as sent, gzip
}

func ExampleConfig_decoders() {
	conn := dial(hyper.Config{Decoders: map[string]hyper.Decoder{
		// With github.com/klauspost/compress/zstd this is
		//	func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }
		"zstd": func(r io.Reader) (io.Reader, error) { return r, nil },
	}, Trace: func(e hyper.TraceEvent) {
		if e.Sent && e.Type == "HEADERS" {
			fmt.Println("accept-encoding:", e.Fields.Get("accept-encoding"))
		}
	}})
	defer conn.Close()
	body(conn.Get(ctx, "/"))
	// Output:
	// accept-encoding: gzip, deflate, br, zstd
}

// Stupid is python hyper's "very stupid" window manager: it always reopens the window by what came.
func Stupid(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return ev.Received() })
}

func ExampleWindowManagerFunc() {
	conn := dial(hyper.Config{WindowManager: Stupid})
	defer conn.Close()
	fmt.Println(body(conn.Get(ctx, "/")))
	// Output:
	// this is /
}

func ExampleWindowManager() {
	// The manager counts what its stream receives, and leaves the window to another manager.
	counting := func(w *hyper.Window) hyper.WindowManager {
		inner := hyper.ReadWindow{Stream: 1 << 20, Connection: 4 << 20}.New(w)
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			if ev.Kind == hyper.WindowClosed && w.StreamID() != 0 {
				fmt.Println("stream", w.StreamID(), "received", ev.Total)
			}
			return inner.Update(ev)
		})
	}
	conn := dial(hyper.Config{WindowManager: counting})
	body(conn.Get(ctx, "/"))
	body(conn.Get(ctx, "/other"))
	conn.Close()
	// Output:
	// stream 1 received 9
	// stream 3 received 14
}

func ExampleRateLimitedWindow() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	slow := hyper.RateLimitedWindow{PerSecond: 1 << 20, Burst: 64 << 10}
	fmt.Println(body(conn.Do(ctx, &hyper.Request{Path: "/background", WindowManager: slow.New})))
	// Output:
	// this is /background
}

func ExampleResponse_Pushes() {
	conn := dial(hyper.Config{Push: &hyper.PushPolicy{}})
	defer conn.Close()

	resp, err := conn.Get(ctx, "/page")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close() // cancels the pushes that Pushes has not yielded
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", page)
	for push, err := range resp.Pushes(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", push.Request.Path, body(push.Response(ctx)))
	}
	// Output:
	// the page
	// /style.css: this is /style.css
}

func ExamplePushPolicy() {
	conn := dial(hyper.Config{Push: &hyper.PushPolicy{
		Max:    10,
		Accept: func(push *hyper.Push) bool { return !strings.HasSuffix(push.Request.Path, ".css") },
	}})
	defer conn.Close()

	resp, err := conn.Get(ctx, "/page")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	for push := range resp.Pushes(ctx) {
		fmt.Println("never reached:", push.Request.Path)
	}
	fmt.Println(conn.Stats().PushesPromised, "promised")
	// Output:
	// 1 promised
}

func ExampleConn_Ping() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	rtt, err := conn.Ping(ctx)
	fmt.Println(rtt > 0, rtt < time.Minute, err)
	// Output:
	// true true <nil>
}

func ExampleConn_WaitSettings() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	settings, err := conn.WaitSettings(ctx)
	fmt.Println(settings.MaxConcurrentStreams, settings.InitialWindowSize, err)
	// Output:
	// 250 1048576 <nil>
}

func ExampleResponse_Trailer() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	resp, err := conn.Get(ctx, "/trailers")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Trailer() == nil, body(resp, nil), resp.Trailer().Get("checksum"))
	// Output:
	// true content 9a0364b9
}

func ExampleRequest_informational() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	text := body(conn.Do(ctx, &hyper.Request{
		Path: "/hints",
		Informational: func(status int, header hyper.Header) error {
			fmt.Println(status, header.Get("link"))
			return nil
		},
	}))
	fmt.Println(text)
	// Output:
	// 103 </style.css>; rel=preload
	// the page
}

func ExampleHeader() {
	header := hyper.Header{
		{Name: ":method", Value: "GET"}, // pseudo-header fields come first, in the given order
		{Name: ":path", Value: "/ordered"},
		{Name: "accept", Value: "text/html"},
		{Name: "authorization", Value: "Bearer secret", Sensitive: true},
	}
	header.Add("accept", "text/plain")
	for name, value := range header.All() {
		fmt.Println(name, value)
	}
	// Output:
	// :method GET
	// :path /ordered
	// accept text/html
	// authorization Bearer secret
	// accept text/plain
}

func ExampleRetryable() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	resp, err := conn.Get(ctx, "/")
	var stream *hyper.StreamError
	switch {
	case err == nil:
		fmt.Println(body(resp, nil))
	case hyper.Retryable(err):
		fmt.Println("the peer has not seen it: send it again")
	case errors.As(err, &stream) && stream.FromPeer:
		fmt.Println("the peer gave up stream", stream.StreamID, "with", stream.Code)
	}
	// Output:
	// this is /
}

func ExampleNewConn() {
	// The server speaks HTTP/2 in cleartext, and the client knows that.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	handler := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.Proto, r.Host) }
	server := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(handler)}
	go server.Serve(listener)
	defer server.Close()

	nc, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	conn, err := hyper.NewConn(ctx, nc, &hyper.Config{Authority: "internal.example"})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Print(body(conn.Get(ctx, "/")))
	// Output:
	// HTTP/2.0 internal.example
}

func ExampleNotHTTP2Error() {
	old := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	}))
	defer old.Close()

	cfg := &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true}}
	_, err := hyper.Dial(ctx, old.Listener.Addr().String(), cfg)
	var not *hyper.NotHTTP2Error
	if errors.As(err, &not) {
		fmt.Println(not.Negotiated)
		io.WriteString(not.Conn, "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(not.Conn)
		fmt.Println(string(bytes.Split(answer, []byte("\r\n"))[0]))
		not.Conn.Close()
	}
	// Output:
	// http/1.1
	// HTTP/1.1 200 OK
}

// grep writes to os.Stdout the lines that contain one of its words, without the time and the
// connection of a line of TraceTo.
type grep []string

func (g grep) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if slices.ContainsFunc(g, func(word string) bool { return strings.Contains(line, word) }) {
			if at := strings.Index(line, "-> "); at > 0 {
				line = line[at:]
			} else if at := strings.Index(line, "<- "); at > 0 {
				line = line[at:]
			}
			fmt.Print(line)
		}
	}
	return len(p), nil
}

func ExampleTraceTo() {
	// With os.Stderr instead of grep, the trace shows everything, with the time and the connection:
	// 15:04:05.000000 c1 -> HEADERS stream=1 len=46 END_STREAM END_HEADERS
	trace := hyper.TraceTo(grep{"-> HEADERS", "authorization", "<- DATA"})
	conn := dial(hyper.Config{Authority: "example.com", Trace: trace})
	body(conn.Do(ctx, &hyper.Request{Header: hyper.Header{{Name: "authorization", Value: "Bearer secret"}}}))
	conn.Close()
	// Output:
	// -> HEADERS stream=1 len=46 END_STREAM END_HEADERS
	//        authorization: [13 bytes]
	// <- DATA stream=1 len=9 END_STREAM
}
