package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// checks are the columns of the table. GracefulStop is the last one, as it stops the server.
var checks = []struct {
	name string
	run  func(testing.TB, *running)
}{
	{"Get", checkGet},
	{"TLS12", checkTLS12},
	{"Head", checkHead},
	{"NotFound", checkNotFound},
	{"Ping", checkPing},
	{"Download", checkDownload},
	{"SmallWindow", checkSmallWindow},
	{"FullWindow", checkFullWindow},
	{"Upload", checkUpload},
	{"UploadOfUnknownLength", checkUploadOfUnknownLength},
	{"Echo", checkEcho},
	{"ThousandAtOnce", checkThousandAtOnce},
	{"CloseMidway", checkCloseMidway},
	{"Codings", checkCodings},
	{"Trailers", checkTrailers},
	{"RequestTrailers", checkRequestTrailers},
	{"LongHeader", checkLongHeader},
	{"Continuation", checkContinuation},
	{"Cookies", checkCookies},
	{"Interim", checkInterim},
	{"Continue", checkContinue},
	{"ContinueUnasked", checkContinueUnasked},
	{"Push", checkPush},
	{"PushOff", checkPushOff},
	{"Connect", checkConnect},
	{"ExtendedConnect", checkExtendedConnect},
	{"Priorities", checkPriorities},
	{"UrgentFirst", checkUrgentFirst},
	{"Cleartext", checkCleartext},
	{"Reload", checkReload},
	{"GracefulStop", checkGracefulStop},
}

// do sends req and reads the complete response.
func do(t testing.TB, r *running, conn *hyper.Conn, req *hyper.Request) (*hyper.Response, string) {
	t.Helper()
	resp, body, err := exchange(r.ctx, conn, req)
	check(t, err)
	return resp, body
}

// exchange sends req and returns the complete response.
func exchange(ctx context.Context, conn *hyper.Conn, req *hyper.Request) (*hyper.Response, string, error) {
	resp, err := conn.Do(ctx, req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// wantSmall requires that the small page can be fetched on conn.
func wantSmall(t testing.TB, r *running, conn *hyper.Conn) {
	t.Helper()
	resp, body := do(t, r, conn, &hyper.Request{Path: "/small.txt"})
	if resp.StatusCode != 200 || body != r.small {
		t.Fatalf("status %d, %q", resp.StatusCode, body)
	}
}

// sumOf returns the SHA-256 of what r reads, in hex.
func sumOf(r io.Reader) (sum string, err error) {
	h := sha256.New()
	_, err = io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

// checkGet gets the small page.
func checkGet(t testing.TB, r *running) {
	wantSmall(t, r, r.dial(t, hyper.Config{}))
}

// checkTLS12 connects with TLS 1.2.
func checkTLS12(t testing.TB, r *running) {
	cfg := h2test.ClientTLS()
	cfg.MaxVersion = tls.VersionTLS12
	conn := r.dial(t, hyper.Config{TLS: cfg})
	wantSmall(t, r, conn)
	if v := conn.TLS().Version; v != tls.VersionTLS12 {
		t.Errorf("%s", tls.VersionName(v))
	}
}

// checkHead requires that a response to HEAD has no body.
func checkHead(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	resp, body := do(t, r, conn, &hyper.Request{Method: "HEAD", Path: "/large.bin"})
	if resp.StatusCode != 200 || body != "" {
		t.Errorf("status %d, body %q", resp.StatusCode, body)
	}
	if resp.ContentLength != largeSize && resp.Header.Has("content-length") {
		t.Errorf("content-length %d", resp.ContentLength)
	}
	wantSmall(t, r, conn)
}

// checkNotFound requires status 404 for a page that does not exist.
func checkNotFound(t testing.TB, r *running) {
	if resp, _ := do(t, r, r.dial(t, hyper.Config{}), &hyper.Request{Path: "/missing"}); resp.StatusCode !=
		404 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// checkPing requires an acknowledgment of a PING, and the server's SETTINGS.
func checkPing(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	rtt, err := conn.Ping(r.ctx)
	check(t, err)
	if rtt <= 0 || conn.Stats().RTT != rtt {
		t.Errorf("round trip %v, in Stats %v", rtt, conn.Stats().RTT)
	}
	settings, err := conn.WaitSettings(r.ctx)
	check(t, err)
	if !settings.Received || settings.MaxFrameSize < 16384 {
		t.Errorf("settings %+v", settings)
	}
}

// checkDownload downloads the large file.
func checkDownload(t testing.TB, r *running) {
	download(t, r, hyper.Config{})
}

// checkSmallWindow downloads the large file with the protocol's default window, which needs a
// WINDOW_UPDATE every few frames.
func checkSmallWindow(t testing.TB, r *running) {
	download(t, r, hyper.Config{WindowManager: hyper.FixedWindow{}.New})
}

// checkFullWindow fetches a body that uses up the stream's first window exactly. END_STREAM needs
// no window, and may come later.
func checkFullWindow(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{InitialStreamWindow: len(r.text),
		WindowManager: hyper.ReadWindow{Stream: len(r.text)}.New})
	for range 20 {
		_, body := do(t, r, conn, &hyper.Request{Path: "/text.txt", NoDefaultFields: true})
		if body != r.text {
			t.Fatalf("%d octets that are not the text", len(body))
		}
	}
}

// download downloads the large file and checks its SHA-256.
func download(t testing.TB, r *running, cfg hyper.Config) {
	t.Helper()
	resp, err := r.dial(t, cfg).Get(r.ctx, "/large.bin")
	check(t, err)
	defer resp.Body.Close()
	sum, err := sumOf(resp.Body)
	if err != nil || sum != r.largeSum {
		t.Errorf("status %d, SHA-256 %s, %v", resp.StatusCode, sum, err)
	}
}

// checkUpload uploads bodies of known length.
func checkUpload(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	small, err := sumOf(strings.NewReader(r.small))
	check(t, err)
	upload(t, r, conn, strings.NewReader(r.small), small)
	large, err := os.Open(r.largeFile())
	check(t, err)
	upload(t, r, conn, large, r.largeSum)
	upload(t, r, conn, bytes.NewReader(nil), hex.EncodeToString(sha256.New().Sum(nil)))
}

// checkUploadOfUnknownLength uploads a body without a content-length.
func checkUploadOfUnknownLength(t testing.TB, r *running) {
	large, err := os.Open(r.largeFile())
	check(t, err)
	defer large.Close()
	upload(t, r, r.dial(t, hyper.Config{}), struct{ io.Reader }{large}, r.largeSum)
}

// upload sends body and checks that the server received it. sum is the SHA-256 of body, in hex.
func upload(t testing.TB, r *running, conn *hyper.Conn, body io.Reader, sum string) {
	t.Helper()
	resp, err := conn.Do(r.ctx, &hyper.Request{Method: "POST", Path: r.path("/origin/sum"), Body: body})
	check(t, err)
	defer resp.Body.Close()
	var got string
	if r.echoes {
		got, err = sumOf(resp.Body)
	} else {
		var b []byte
		b, err = io.ReadAll(resp.Body)
		got = string(b)
	}
	if err != nil || resp.StatusCode != 200 || got != sum {
		t.Fatalf("status %d, %.100q, %v", resp.StatusCode, got, err)
	}
}

// checkEcho uses both directions of a stream: first in turn, then both as fast as possible. The
// first message is sent before the response, as nginx forwards no request before that.
func checkEcho(t testing.TB, r *running) {
	s, err := r.dial(t, hyper.Config{}).Open(r.ctx, &hyper.Request{Method: "POST", Path: "/origin/echo"})
	check(t, err)
	const first = "message"
	_, err = io.WriteString(s, first)
	check(t, err)
	resp, err := s.Response(r.ctx)
	check(t, err)
	defer resp.Body.Close()
	back := make([]byte, len(first))
	if _, err := io.ReadFull(resp.Body, back); err != nil || string(back) != first {
		t.Fatalf("got %q, %v", back, err)
	}
	pingPong(t, s, resp)

	large, err := os.Open(r.largeFile())
	check(t, err)
	defer large.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if _, err := io.Copy(s, large); err != nil {
			t.Errorf("sending: %v", err)
		}
		s.CloseWrite()
	})
	sum, err := sumOf(resp.Body)
	if err != nil || sum != r.largeSum {
		t.Errorf("SHA-256 %s, %v", sum, err)
	}
}

// pingPong writes a message and reads it back, 20 times.
func pingPong(t testing.TB, w io.Writer, resp *hyper.Response) {
	t.Helper()
	for i := range 20 {
		out := fmt.Sprintf("message %02d", i)
		_, err := io.WriteString(w, out)
		check(t, err)
		in := make([]byte, len(out))
		if _, err := io.ReadFull(resp.Body, in); err != nil || string(in) != out {
			t.Fatalf("sent %q, got %q, %v", out, in, err)
		}
	}
}

// checkThousandAtOnce makes 1000 concurrent requests on one connection.
func checkThousandAtOnce(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			resp, body, err := exchange(r.ctx, conn, &hyper.Request{Path: "/small.txt"})
			switch {
			case err != nil:
				t.Error(err)
			case resp.StatusCode != 200 || body != r.small:
				t.Errorf("stream %d: status %d, %q", resp.StreamID, resp.StatusCode, body)
			}
		})
	}
	wg.Wait()
	if n := conn.Stats().StreamsOpened; n != 1000 {
		t.Errorf("%d streams", n)
	}
}

// checkCloseMidway requires that a body that is closed early returns its credit to the connection.
// 40 windows of a stream are more than the connection's window.
func checkCloseMidway(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	for range 40 {
		resp, err := conn.Get(r.ctx, "/large.bin")
		check(t, err)
		_, err = io.CopyN(io.Discard, resp.Body, 100_000)
		check(t, err)
		check(t, resp.Body.Close())
	}
	wantSmall(t, r, conn)
}

// checkCodings requires that each content coding that the server offers is decoded.
func checkCodings(t testing.TB, r *running) {
	if len(r.codings) == 0 {
		t.Fatal("it offers none")
	}
	conn := r.dial(t, hyper.Config{})
	for _, coding := range r.codings {
		resp, body := do(t, r, conn, &hyper.Request{Path: "/text.txt",
			Header: hyper.Header{{Name: "accept-encoding", Value: coding}}})
		if got := resp.Header.Get("content-encoding"); got != coding || !resp.Uncompressed {
			t.Errorf("asked for %q, got %q, uncompressed: %v", coding, got, resp.Uncompressed)
		}
		if body != r.text {
			t.Errorf("%s: %d octets that are not the text", coding, len(body))
		}
	}
	resp, body := do(t, r, conn, &hyper.Request{Path: "/text.txt"})
	if body != r.text || !resp.Uncompressed {
		t.Errorf("%d octets, uncompressed: %v", len(body), resp.Uncompressed)
	}
}

// checkTrailers requires the trailer of a response.
func checkTrailers(t testing.TB, r *running) {
	resp, body := do(t, r, r.dial(t, hyper.Config{}), &hyper.Request{Path: r.path("/origin/trailers")})
	if got := resp.Trailer().Get("x-sum"); got != "abc" {
		t.Errorf("trailer %q behind %q", got, body)
	}
}

// checkRequestTrailers requires that the server receives the trailer of a request.
func checkRequestTrailers(t testing.TB, r *running) {
	_, body := do(t, r, r.dial(t, hyper.Config{}), &hyper.Request{
		Method:  "POST",
		Path:    "/origin/sent",
		Header:  hyper.Header{{Name: "trailer", Value: "x-sent"}},
		Body:    strings.NewReader("body"),
		Trailer: hyper.Header{{Name: "x-sent", Value: "def"}},
	})
	if body != "sent def" {
		t.Errorf("got %q", body)
	}
}

// checkLongHeader sends a field section of several thousand bytes.
func checkLongHeader(t testing.TB, r *running) { longHeader(t, r, 6000) }

// checkContinuation sends a field section that needs more than one frame, even with frames of the
// largest size.
func checkContinuation(t testing.TB, r *running) { longHeader(t, r, 60_000) }

// longHeader sends a field of about size bytes that the server returns as the body.
func longHeader(t testing.TB, r *running, size int) {
	t.Helper()
	conn := r.dial(t, hyper.Config{})
	long := rand.Text()
	for len(long) < size {
		long += rand.Text()
	}
	for _, sensitive := range []bool{true, false, false} {
		header := hyper.Header{{Name: "x-long", Value: long, Sensitive: sensitive}}
		if _, body := do(t, r, conn, &hyper.Request{Path: "/origin/header", Header: header}); body != long {
			t.Errorf("sensitive %v: got %d octets of %d", sensitive, len(body), len(long))
		}
	}
}

// checkCookies requires that a server gets all cookies, whatever blanks are between them. A field
// value that begins or ends with blanks is malformed (RFC 9113 §8.2.1): nghttpd resets the stream
// for such a value, and Node drops the cookies.
func checkCookies(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	path := r.path("/origin/cookies")
	for _, sent := range []string{"a=1; b=2", "a=1;  b=2", "a=1 ; b=2", "a=1; \tb=2", "a=1;b=2",
		";a=1;;\t; b=2;"} {
		resp, body := do(t, r, conn, &hyper.Request{Path: path,
			Header: hyper.Header{{Name: "cookie", Value: sent}}})
		want := "a=1; b=2"
		if path == "/small.txt" { // the server only has files
			want = r.small
		}
		if resp.StatusCode != 200 || body != want {
			t.Errorf("sent %q: status %d, %q", sent, resp.StatusCode, body)
		}
	}
}

// checkInterim requires an interim response with its fields.
func checkInterim(t testing.TB, r *running) {
	var link string
	resp, body := do(t, r, r.dial(t, hyper.Config{}),
		&hyper.Request{Path: "/origin/early", Informational: func(status int, h hyper.Header) error {
			if status == 103 {
				link = h.Get("link")
			}
			return nil
		}})
	if link != "</style>; rel=preload" || resp.StatusCode != 200 || body != "late" {
		t.Errorf("103 with link %q, then %d, %q", link, resp.StatusCode, body)
	}
}

// checkContinue requires that the server sends 100 (Continue).
func checkContinue(t testing.TB, r *running) {
	// Never send the body without 100 (Continue).
	expectContinue(t, r, hyper.Config{ExpectContinueTimeout: -1})
}

// checkContinueUnasked requires that the body is sent even if the server sends no 100 (Continue).
// RFC 9110 §10.1.1: a client must not wait for it indefinitely.
func checkContinueUnasked(t testing.TB, r *running) {
	expectContinue(t, r, hyper.Config{ExpectContinueTimeout: time.Millisecond})
}

// expectContinue sends a request with Expect: 100-continue.
func expectContinue(t testing.TB, r *running, cfg hyper.Config) {
	t.Helper()
	conn := r.dial(t, cfg)
	sum, err := sumOf(strings.NewReader(r.small))
	check(t, err)
	resp, body := do(t, r, conn, &hyper.Request{
		Method: "POST",
		Path:   r.path("/origin/sum"),
		Header: hyper.Header{{Name: "expect", Value: "100-continue"}},
		Body:   strings.NewReader(r.small),
	})
	if r.echoes {
		body, _ = sumOf(strings.NewReader(body))
	}
	if resp.StatusCode != 200 || body != sum {
		t.Errorf("status %d, %q", resp.StatusCode, body)
	}
}

// checkPush requires a response and the response pushed with it.
func checkPush(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{Push: &hyper.PushPolicy{}})
	resp, err := conn.Get(r.ctx, r.path("/page"))
	check(t, err)
	defer resp.Body.Close()
	var pushed []string
	for push, err := range resp.Pushes(r.ctx) {
		check(t, err)
		got, err := push.Response(r.ctx)
		check(t, err)
		body, err := io.ReadAll(got.Body)
		check(t, err)
		pushed = append(pushed, fmt.Sprintf("%s %d %s", push.Request.Path, got.StatusCode, body))
	}
	body, err := io.ReadAll(resp.Body)
	if want := []string{"/pushed.txt 200 " + r.pushed}; !slices.Equal(pushed, want) {
		t.Errorf("pushed %q, want %q", pushed, want)
	}
	if err != nil || string(body) != r.small {
		t.Errorf("the page: %q, %v", body, err)
	}
}

// checkPushOff requires that the server does not push to a client that has switched push off. RFC
// 9113 §6.5.2: a server that received ENABLE_PUSH=0 MUST NOT send PUSH_PROMISE. A PUSH_PROMISE
// would end the connection.
func checkPushOff(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	do(t, r, conn, &hyper.Request{Path: r.path("/page")})
	wantSmall(t, r, conn)
}

// checkConnect opens a tunnel with CONNECT.
func checkConnect(t testing.TB, r *running) {
	connect(t, r, &hyper.Request{Method: "CONNECT", Authority: "example.com:443"}, "tunnel\n")
}

// checkExtendedConnect opens a tunnel with an extended CONNECT (RFC 8441).
func checkExtendedConnect(t testing.TB, r *running) {
	connect(t, r, &hyper.Request{Method: "CONNECT", Protocol: "chat", Path: "/room"}, "chat\n")
}

// connect sends a CONNECT request. It requires a greeting and an echo in the tunnel.
func connect(t testing.TB, r *running, req *hyper.Request, greeting string) {
	t.Helper()
	s, err := r.dial(t, hyper.Config{}).Open(r.ctx, req)
	check(t, err)
	resp, err := s.Response(r.ctx)
	check(t, err)
	defer resp.Body.Close()
	got := make([]byte, len(greeting))
	if _, err := io.ReadFull(resp.Body, got); err != nil || resp.StatusCode != 200 ||
		string(got) != greeting {
		t.Fatalf("status %d, %q, %v", resp.StatusCode, got, err)
	}
	pingPong(t, s, resp)
	check(t, s.CloseWrite())
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("at the end: %q, %v", rest, err)
	}
}

// checkGracefulStop stops the server under load. Each request must succeed or get a correct error:
// the server must not have acted on a request whose error is Retryable.
func checkGracefulStop(t testing.TB, r *running) {
	conn := r.dial(t, hyper.Config{})
	var lock sync.Mutex
	failed := make(map[string]error)
	var next, succeeded atomic.Int64
	enough := make(chan struct{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for {
				id := fmt.Sprintf("%s-%d", r.name, next.Add(1))
				if err := slowRequest(r.ctx, conn, id); err != nil {
					lock.Lock()
					failed[id] = err
					lock.Unlock()
					return
				}
				if succeeded.Add(1) == 100 {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-r.ctx.Done():
		wg.Wait()
		t.Fatalf("%d requests succeeded, others failed: %v", succeeded.Load(), failed)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop(r.ctx)
	}()
	wg.Wait()
	<-stopped
	select {
	case <-conn.Done():
	case <-r.ctx.Done():
		t.Fatal("the connection goes on")
	}
	if serverBroke(conn) {
		maps.DeleteFunc(failed, func(id string, err error) bool { return !hyper.Retryable(err) })
	}
	for id, err := range failed {
		judge(t, r, id, err)
	}
	t.Logf("%d succeeded; the connection ended with: %v", succeeded.Load(), conn.Err())
}

// serverBroke reports whether conn ended as those of Apache httpd 2.4.67 sometimes do in a
// graceful stop: a callback of its HTTP/2 library fails, it sends GOAWAY with that library's error
// -902, and goes on with frames whose payloads are missing. What follows is not the server's
// answer, so only the promise of Retryable can be judged.
func serverBroke(conn *hyper.Conn) bool {
	told, ok := conn.GoAway()
	return ok && told.Code == nghttp2CallbackFailure
}

// nghttp2CallbackFailure is NGHTTP2_ERR_CALLBACK_FAILURE as an error code of 32 bits.
const nghttp2CallbackFailure hyper.ErrCode = 1<<32 - 902

// slowRequest sends a request that the server takes some time for.
func slowRequest(ctx context.Context, conn *hyper.Conn, id string) error {
	resp, body, err := exchange(ctx, conn, &hyper.Request{Path: "/origin/slow",
		Header: hyper.Header{{Name: "x-request", Value: id}}})
	if err == nil && (resp.StatusCode != 200 || body != "done "+id) {
		return fmt.Errorf("status %d, %q", resp.StatusCode, body)
	}
	return err
}

// judge requires that err is an error of hyper, and that it is not Retryable if the server acted on
// the request.
func judge(t testing.TB, r *running, id string, err error) {
	t.Helper()
	var s *hyper.StreamError
	var c *hyper.ConnError
	switch {
	case !errors.As(err, &s) && !errors.As(err, &c):
		t.Errorf("request %s: neither a response nor a reason: %v", id, err)
	case hyper.Retryable(err) && r.seen(id):
		t.Errorf("request %s was acted on and is said to be retryable: %v", id, err)
	}
}
