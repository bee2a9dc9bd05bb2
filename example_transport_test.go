package hyper_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"gohyper.dev/hyper"
)

// config trusts the examples' server.
func config() *hyper.Config { return &hyper.Config{TLS: &tls.Config{RootCAs: roots()}} }

// text returns the body of an http.Response as text.
func text(resp *http.Response, err error) string {
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

// A program that takes an http.Client or an http.RoundTripper needs one changed line.
func ExampleTransport() {
	client := &http.Client{Transport: &hyper.Transport{Config: config()}}
	defer client.CloseIdleConnections()

	resp, err := client.Get(server().URL + "/hello")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	greeting, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Status, resp.Proto)
	fmt.Printf("%s\n", greeting)
	// Output:
	// 200 OK HTTP/2.0
	// this is /hello
}

// Redirects, cookies and everything else that http.Client does work as before.
func ExampleTransport_client() {
	jar, err := cookiejar.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: &hyper.Transport{Config: config()}}
	defer client.CloseIdleConnections()

	fmt.Println(text(client.PostForm(server().URL+"/login", url.Values{"user": {"alice"}})))
	fmt.Println(text(client.Get(server().URL + "/account")))
	// Output:
	// welcome, alice
	// welcome, alice
}

// A reverse proxy uses hyper to reach the servers behind it.
func ExampleTransport_reverseProxy() {
	behind, err := url.Parse(server().URL)
	if err != nil {
		log.Fatal(err)
	}
	transport := &hyper.Transport{Config: config()}
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(behind) },
		Transport: transport,
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	fmt.Println(text(http.Get(front.URL + "/hello")))
	// Output: this is /hello
}

// An existing http.Transport keeps its dialer, its proxy and its TLS configuration, and uses hyper
// for HTTP/2.
func ExampleConfigureTransport() {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots()}}
	if err := hyper.ConfigureTransport(transport, nil); err != nil {
		log.Fatal(err)
	}
	defer transport.CloseIdleConnections()

	resp, err := (&http.Client{Transport: transport}).Get(server().URL + "/hello")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Proto, text(resp, nil))
	_, ours := hyper.ResponseFromHTTP(resp)
	fmt.Println("through hyper:", ours)
	// Output:
	// HTTP/2.0 this is /hello
	// through hyper: true
}

// A single connection is a RoundTripper, too. This example also receives the pushes that belong to
// the response.
func ExampleConn_RoundTrip() {
	conn := dial(hyper.Config{Push: &hyper.PushPolicy{}})
	defer conn.Close()
	client := &http.Client{Transport: conn}

	resp, err := client.Get(server().URL + "/page")
	if err != nil {
		log.Fatal(err)
	}
	own, _ := hyper.ResponseFromHTTP(resp)
	for push, err := range own.Pushes(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", push.Request.Path, body(push.Response(ctx)))
	}
	fmt.Printf("stream %d: %s\n", own.StreamID, text(resp, nil))
	// Output:
	// /style.css: this is /style.css
	// stream 1: the page
}

// An http.Client with a Timeout wraps the response's body. The context gives access to the
// hyper.Response.
func ExampleWithResponse() {
	client := &http.Client{Timeout: time.Minute, Transport: &hyper.Transport{Config: config()}}
	defer client.CloseIdleConnections()

	var own *hyper.Response
	withOwn := hyper.WithResponse(ctx, func(r *hyper.Response) { own = r })
	req, err := http.NewRequestWithContext(withOwn, "GET", server().URL+"/hello", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text(client.Do(req)))
	fmt.Println("stream", own.StreamID)
	// Output:
	// this is /hello
	// stream 1
}

// errors.As finds hyper's errors inside those of http.Client.
func ExampleTransport_errors() {
	client := &http.Client{Transport: &hyper.Transport{Config: config()}}
	defer client.CloseIdleConnections()

	_, err := client.Post(server().URL+"/broken", "text/plain", strings.NewReader("hello"))
	var stream *hyper.StreamError
	if errors.As(err, &stream) {
		fmt.Println(stream.Code, "from the peer:", stream.FromPeer)
		fmt.Println("may be sent again:", hyper.Retryable(err))
	}
	// Output:
	// INTERNAL_ERROR from the peer: true
	// may be sent again: false
}

// WithRequest sets on a request of an http.Client what http.Request has no fields for.
func ExampleWithRequest() {
	client := &http.Client{Transport: &hyper.Transport{Config: config()}}
	defer client.CloseIdleConnections()

	ctx := hyper.WithRequest(ctx, func(r *hyper.Request) {
		r.WindowManager = hyper.ReadWindow{Stream: 64 << 10, Connection: 1 << 20}.New
		r.Informational = func(status int, header hyper.Header) error {
			fmt.Println(status, header.Get("link"))
			return nil
		}
	})
	req, err := http.NewRequestWithContext(ctx, "GET", server().URL+"/hints", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text(client.Do(req)))
	// Output:
	// 103 </style.css>; rel=preload
	// the page
}
