// This file tests request bodies of each kind, and how they are closed.

package hypertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// An uploadKind is a way to hand a body to Do.
type uploadKind struct {
	name   string
	make   func(t *testing.T, data []byte) io.Reader
	memory bool // sent without being read
	known  bool // its length is found
	slow   bool // one byte a frame: for short bodies only
}

var uploadKinds = []uploadKind{
	{name: "bytes.Reader", memory: true, known: true,
		make: func(_ *testing.T, p []byte) io.Reader { return bytes.NewReader(p) }},
	{name: "bytes.Buffer", memory: true, known: true,
		make: func(_ *testing.T, p []byte) io.Reader { return bytes.NewBuffer(p) }},
	{name: "strings.Reader", memory: true, known: true,
		make: func(_ *testing.T, p []byte) io.Reader { return strings.NewReader(string(p)) }},
	{name: "bytes.Reader, half read", memory: true, known: true,
		make: func(_ *testing.T, p []byte) io.Reader {
			r := bytes.NewReader(append([]byte("read before"), p...))
			r.Seek(11, io.SeekStart)
			return r
		}},
	{name: "os.File", known: true, make: func(t *testing.T,
		p []byte) io.Reader {
		return uploadFile(t, p, 0)
	}},
	{name: "os.File at an offset", known: true, make: func(t *testing.T,
		p []byte) io.Reader {
		return uploadFile(t, p, 1000)
	}},
	{name: "SectionReader", known: true, make: func(_ *testing.T, p []byte) io.Reader {
		r := strings.NewReader("before" + string(p) + "behind")
		return io.NewSectionReader(r, 6, int64(len(p)))
	}},
	{name: "LimitedReader of memory", known: true, make: func(_ *testing.T, p []byte) io.Reader {
		return io.LimitReader(strings.NewReader(string(p)+"behind"), int64(len(p)))
	}},
	{name: "LimitedReader beyond memory", known: true, make: func(_ *testing.T, p []byte) io.Reader {
		return io.LimitReader(bytes.NewBuffer(p), 1<<40)
	}},
	{name: "LimitedReader of a reader", make: func(_ *testing.T, p []byte) io.Reader {
		return io.LimitReader(iotest.DataErrReader(bytes.NewReader(p)), 1<<40)
	}},
	{name: "plain reader", make: func(_ *testing.T,
		p []byte) io.Reader {
		return struct{ io.Reader }{bytes.NewReader(p)}
	}},
	{name: "OneByteReader", slow: true, make: func(_ *testing.T,
		p []byte) io.Reader {
		return iotest.OneByteReader(bytes.NewReader(p))
	}},
	{name: "HalfReader",
		make: func(_ *testing.T, p []byte) io.Reader { return iotest.HalfReader(bytes.NewReader(p)) }},
	{name: "DataErrReader", make: func(_ *testing.T,
		p []byte) io.Reader {
		return iotest.DataErrReader(bytes.NewReader(p))
	}},
	{name: "io.Pipe", make: func(_ *testing.T, p []byte) io.Reader {
		r, w := io.Pipe()
		go func() {
			w.Write(p)
			w.Close()
		}()
		return r
	}},
}

func uploadFile(t *testing.T, data []byte, at int) *os.File {
	name := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(name, append(make([]byte, at), data...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(int64(at), io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

// uploadData returns n bytes without short repetitions, so that misplaced bytes are noticed.
func uploadData(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

// dialUploadPeer makes a peer whose windows are larger than any upload here.
func dialUploadPeer(t *testing.T, cfg *hyper.Config, settings ...wire.Setting) (*h2test.Peer, *hyper.Conn) {
	t.Helper()
	peer, conn := dialPeer(t, cfg, append(settings,
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 24})...)
	peer.WriteWindowUpdate(0, 1<<24)
	synctest.Wait()
	return peer, conn
}

// put returns a request with a body.
func put(body io.Reader) *hyper.Request {
	return &hyper.Request{Method: "PUT", Path: "/upload", Body: body}
}

func TestBodyOfEveryKindAndSize(t *testing.T) {
	sizes := []int{0, 1, 1023, 1024, 1025, 16383, 16384, 16385, 65534, 65535, 65536, 65537, 200_000}
	for _, kind := range uploadKinds {
		t.Run(kind.name, func(t *testing.T) {
			for _, n := range sizes {
				if kind.slow && n > 1025 {
					continue
				}
				synctest.Test(t, func(t *testing.T) { testBody(t, kind, uploadData(n)) })
			}
		})
	}
}

func testBody(t *testing.T, kind uploadKind, data []byte) {
	reason := fmt.Sprintf("%s of %d octets", kind.name, len(data))
	peer, conn := dialUploadPeer(t, nil)
	got := doAsync(context.Background(), conn, put(kind.make(t, data)))
	h := peer.WantHeaders(reason, 1, ":method: PUT")
	wantLength := ""
	if kind.known {
		wantLength = fmt.Sprint(len(data))
	}
	if length := h.Get("content-length"); length != wantLength {
		t.Errorf("%s: content-length %q, want %q", reason, length, wantLength)
	}
	if empty := kind.memory && len(data) == 0; h.EndStream != empty {
		t.Errorf("%s: END_STREAM on HEADERS is %v", reason, h.EndStream)
	}
	var body []byte
	for end := h.EndStream; !end; {
		f := peer.WantFrame(reason, wire.Data)
		body = append(body, f.Payload...)
		end = f.Flags.Has(wire.EndStream)
		if kind.known && f.Length == 0 && len(data) > 0 {
			t.Errorf("%s: END_STREAM has a frame of its own", reason)
		}
	}
	if !bytes.Equal(body, data) {
		t.Errorf("%s: %d octets arrived, or others", reason, len(body))
	}
	peer.WriteHeaders(1, wire.EndStream, ":status: 204")
	got.Want(t, reason)
}

func TestNoBodyIsEndStreamOnHeaders(t *testing.T) {
	for _, body := range []io.Reader{nil, http.NoBody, bytes.NewReader(nil), new(bytes.Buffer),
		strings.NewReader("")} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			doAsync(context.Background(), conn, put(body))
			if h := peer.WantHeaders("no body", 1, "content-length: 0"); !h.EndStream {
				t.Errorf("%T: no END_STREAM", body)
			}
			peer.WantIdle("and nothing else")
		})
	}
}

func TestUnknownLengthIsNotLookedFor(t *testing.T) {
	for _, body := range []io.Reader{strings.NewReader("body"),
		io.NewSectionReader(strings.NewReader("body"), 0, 4)} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			req := put(body)
			req.ContentLength = -1
			doAsync(context.Background(), conn, req)
			if h := peer.WantHeaders("ContentLength is -1", 1); h.Get("content-length") != "" {
				t.Errorf("%T: content-length: %s", body, h.Get("content-length"))
			}
			peer.WantBody("it is sent all the same", 1, []byte("body"))
		})
	}
}

func TestDeclaredLengthOfPlainReaderIsSent(t *testing.T) {
	for _, declare := range []func(*hyper.Request){
		func(r *hyper.Request) { r.ContentLength = 4 },
		func(r *hyper.Request) { r.Header.Add("Content-Length", "4") },
		func(r *hyper.Request) { r.Header.Add("Content-Length", "4"); r.ContentLength = 4 },
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			req := put(iotest.HalfReader(strings.NewReader("body")))
			declare(req)
			doAsync(context.Background(), conn, req)
			peer.WantHeaders("the declared length", 1, "content-length: 4")
			peer.WantBody("the body", 1, []byte("body"))
		})
	}
}

func TestBodyInMemoryOfAnotherLengthIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		for _, declared := range []int64{4, 6} {
			byField, byHeader := put(strings.NewReader("12345")), put(bytes.NewReader([]byte("12345")))
			byField.ContentLength = declared
			byHeader.Header.Add("content-length", fmt.Sprint(declared))
			for _, req := range []*hyper.Request{byField, byHeader} {
				_, err := conn.Do(context.Background(), req)
				var le *hyper.BodyLengthError
				if !errors.As(err, &le) || *le != (hyper.BodyLengthError{Declared: declared, Got: 5}) {
					t.Errorf("declared %d: %v", declared, err)
				}
				peer.WantIdle("nothing was sent")
			}
		}
		if _, err := conn.Do(context.Background(), &hyper.Request{ContentLength: 1}); !errors.As(err,
			new(*hyper.BodyLengthError)) {
			t.Errorf("a length and no body: %v", err)
		}
		getAsync(conn, "/")
		peer.WantHeaders("no stream was used", 1)
	})
}

func TestReadBodyOfAnotherLengthResetsTheStream(t *testing.T) {
	readers := map[string]func(io.Reader) io.Reader{
		"whole":         func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
		"OneByteReader": iotest.OneByteReader,
		"HalfReader":    iotest.HalfReader,
		"DataErrReader": iotest.DataErrReader,
	}
	for name, wrap := range readers {
		for _, declared := range []int64{1, 4, 6, 100_000} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialUploadPeer(t, nil)
				req := put(wrap(strings.NewReader("12345")))
				req.ContentLength = declared
				got := doAsync(context.Background(), conn, req)
				peer.WantHeaders(name, 1, fmt.Sprint("content-length: ", declared))
				var sent int64
				for {
					f, err := peer.Next()
					if err != nil {
						t.Fatal(err)
					}
					if f.Type == wire.RSTStream {
						break
					}
					sent += int64(f.Length)
					if f.Type != wire.Data || f.Flags.Has(wire.EndStream) || sent >= declared {
						t.Fatalf("%s, declared %d: %v, %d octets", name, declared, f, sent)
					}
				}
				err := got.WantErr(t, name)
				var le *hyper.BodyLengthError
				if !errors.As(err, &le) || le.Declared != declared || (le.Got > declared) != (declared < 5) {
					t.Errorf("%s, declared %d: %v", name, declared, err)
				}
				if !errors.Is(err, hyper.ErrCodeCancel) {
					t.Errorf("%s: not reset with CANCEL: %v", name, err)
				}
			})
		}
	}
}

func TestErrorOfReaderReachesTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		boom := errors.New("boom")
		got := doAsync(context.Background(), conn,
			put(io.MultiReader(strings.NewReader("begun"), iotest.ErrReader(boom))))
		peer.WantHeaders("the request", 1)
		peer.WantData("what was read before", 1, 0, 5)
		peer.WantRSTStream("the rest will not come", 1, wire.Cancel)
		if err := got.WantErr(t, "the reader's error"); !errors.Is(err, boom) ||
			!errors.Is(err, hyper.ErrCodeCancel) {
			t.Error(err)
		}
	})
}

// An uploadBody counts how often it is closed. If block is set, its Read blocks at the end of the
// text until Close.
type uploadBody struct {
	text  io.Reader
	block bool

	mu     sync.Mutex
	closes int
	closed chan struct{}
}

func newUploadBody(text string, block bool) *uploadBody {
	return &uploadBody{text: strings.NewReader(text), block: block, closed: make(chan struct{})}
}

func (b *uploadBody) Read(p []byte) (int, error) {
	n, err := b.text.Read(p)
	if err == io.EOF && b.block {
		<-b.closed
		return 0, os.ErrClosed
	}
	return n, err
}

func (b *uploadBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closes++; b.closes == 1 {
		close(b.closed)
	}
	return nil
}

func (b *uploadBody) wantClosedOnce(t *testing.T) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closes != 1 {
		t.Errorf("the body was closed %d times", b.closes)
	}
}

func TestBodyIsClosedOnceInEveryOutcome(t *testing.T) {
	type exchange struct {
		*testing.T
		peer   *h2test.Peer
		conn   *hyper.Conn
		req    *hyper.Request
		got    *h2test.Call[*hyper.Response]
		cancel context.CancelFunc
	}
	tests := []struct {
		outcome string
		block   bool // Read blocks
		ok      bool // there is a response
		before  func(*exchange)
		then    func(*exchange)
	}{
		{outcome: "success", ok: true, then: func(e *exchange) {
			e.peer.WantBody("the body", 1, []byte("text"))
			e.peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		}},
		{outcome: "success before the body's end", ok: true, then: func(e *exchange) {
			e.peer.WriteHeaders(1, wire.EndStream, ":status: 200")
			e.peer.WantBody("the body", 1, []byte("text"))
		}},
		{outcome: "a refused request", before: func(e *exchange) { e.req.Path = "x" }},
		{outcome: "a context that is over", before: func(e *exchange) { e.cancel() }},
		{outcome: "a dead connection", before: func(e *exchange) { e.conn.Close() }},
		{outcome: "too short", before: func(e *exchange) { e.req.ContentLength = 9 }},
		{outcome: "too long", before: func(e *exchange) { e.req.ContentLength = 3 }},
		{outcome: "cancelled while Read blocks", block: true, then: func(e *exchange) { e.cancel() }},
		{outcome: "reset by the peer while Read blocks", block: true, then: func(e *exchange) {
			e.peer.WriteRSTStream(1, wire.InternalError)
		}},
		{outcome: "connection lost while Read blocks", block: true,
			then: func(e *exchange) { e.peer.Close() }},
		{outcome: "connection closed while Read blocks", block: true,
			then: func(e *exchange) { e.conn.Close() }},
		{outcome: "GOAWAY below the request while Read blocks", block: true, then: func(e *exchange) {
			e.peer.WriteGoAway(0, wire.NoError, "")
		}},
		{outcome: "a malformed response while Read blocks", block: true, then: func(e *exchange) {
			e.peer.WriteHeaders(1, wire.EndStream, ":status: x")
		}},
		{outcome: "an early refusal while Read blocks", block: true, ok: true, then: func(e *exchange) {
			e.peer.WriteHeaders(1, wire.EndStream, ":status: 413")
		}},
		{outcome: "the response's body is closed while Read blocks", block: true, ok: true,
			then: func(e *exchange) {
				e.peer.WriteHeaders(1, 0, ":status: 200")
				<-e.got.Done
				e.got.Value.Body.Close()
			}},
	}
	for _, test := range tests {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				body := newUploadBody("text", test.block)
				e := &exchange{T: t, req: put(body), cancel: cancel}
				e.peer, e.conn = dialPeer(t, nil)
				if test.before != nil {
					test.before(e)
				}
				e.got = doAsync(ctx, e.conn, e.req)
				if test.then != nil {
					e.peer.WantHeaders(test.outcome, 1)
					if test.block {
						e.peer.WantData("what was read before", 1, 0, 4)
					}
					test.then(e)
				}
				if test.ok {
					e.got.Want(t, test.outcome)
				} else {
					e.got.WantErr(t, test.outcome)
				}
				body.wantClosedOnce(t)
			})
		})
	}
}

func TestBodyIsClosedOnceByACallThatWaitsForASlot(t *testing.T) {
	for name, end := range map[string]func(*h2test.Peer, *hyper.Conn, context.CancelFunc){
		"cancelled": func(_ *h2test.Peer, _ *hyper.Conn, cancel context.CancelFunc) { cancel() },
		"lost":      func(peer *h2test.Peer, _ *hyper.Conn, _ context.CancelFunc) { peer.Close() },
		"closed":    func(_ *h2test.Peer, conn *hyper.Conn, _ context.CancelFunc) { conn.Close() },
		"GOAWAY": func(peer *h2test.Peer, _ *hyper.Conn,
			_ context.CancelFunc) {
			peer.WriteGoAway(0, wire.NoError, "")
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxConcurrentStreams, Value: 0})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			body := newUploadBody("text", true)
			got := doAsync(ctx, conn, put(body))
			peer.WantIdle("no slot")
			end(peer, conn, cancel)
			got.WantErr(t, name)
			body.wantClosedOnce(t)
		})
	}
}

// A reader that cannot be interrupted blocks its own goroutine, and not the caller.
func TestBlockedReaderWithoutCloseDoesNotHoldTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		body := newUploadBody("", true)
		defer body.Close()
		ctx, cancel := context.WithCancel(context.Background())
		got := doAsync(ctx, conn, put(struct{ io.Reader }{body}))
		peer.WantHeaders("the request", 1)
		cancel()
		peer.WantRSTStream("cancelled", 1, wire.Cancel)
		if err := got.WantErr(t, "cancelled"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// closeBlocks is a body whose Close blocks until release is closed.
type closeBlocks struct {
	io.Reader
	release chan struct{}
}

func (b closeBlocks) Close() error {
	<-b.release
	return nil
}

// golang/go#80085: the connection must not depend on what the Close of a request body does, or how
// long it takes.
func TestBodyWhoseCloseHangsDoesNotHoldOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		body := newUploadBody("", true)
		hangs := closeBlocks{body, make(chan struct{})}
		defer func() {
			close(hangs.release)
			body.Close()
		}()
		got := doAsync(context.Background(), conn, put(hangs))
		peer.WantHeaders("the request", 1)
		peer.WriteRSTStream(1, wire.InternalError)
		got.WantErr(t, "reset by the peer")
		next := getAsync(conn, "/next")
		peer.WantHeaders("the connection goes on", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		next.Want(t, "the next request")
	})
}
