package hyper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

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
func dialUploadPeer(t *testing.T, cfg *Config, settings ...wire.Setting) (*h2test.Peer, *Conn) {
	t.Helper()
	peer, conn := dialPeer(t, cfg, append(settings,
		wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 24})...)
	peer.WriteWindowUpdate(0, 1<<24)
	synctest.Wait()
	return peer, conn
}

// put returns a request with a body.
func put(body io.Reader) *Request { return &Request{Method: "PUT", Path: "/upload", Body: body} }

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
	got.want(t, reason)
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
	for _, declare := range []func(*Request){
		func(r *Request) { r.ContentLength = 4 },
		func(r *Request) { r.Header.Add("Content-Length", "4") },
		func(r *Request) { r.Header.Add("Content-Length", "4"); r.ContentLength = 4 },
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
			for _, req := range []*Request{byField, byHeader} {
				_, err := conn.Do(context.Background(), req)
				var le *BodyLengthError
				if !errors.As(err, &le) || *le != (BodyLengthError{declared, 5}) {
					t.Errorf("declared %d: %v", declared, err)
				}
				peer.WantIdle("nothing was sent")
			}
		}
		if _, err := conn.Do(context.Background(), &Request{ContentLength: 1}); !errors.As(err,
			new(*BodyLengthError)) {
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
				err := got.wantErr(t, name)
				var le *BodyLengthError
				if !errors.As(err, &le) || le.Declared != declared || (le.Got > declared) != (declared < 5) {
					t.Errorf("%s, declared %d: %v", name, declared, err)
				}
				if !errors.Is(err, ErrCodeCancel) {
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
		if err := got.wantErr(t, "the reader's error"); !errors.Is(err, boom) ||
			!errors.Is(err, ErrCodeCancel) {
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
		conn   *Conn
		req    *Request
		got    *result
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
				<-e.got.done
				e.got.resp.Body.Close()
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
					e.got.want(t, test.outcome)
				} else {
					e.got.wantErr(t, test.outcome)
				}
				body.wantClosedOnce(t)
			})
		})
	}
}

func TestBodyIsClosedOnceByWhoWaitsForSlot(t *testing.T) {
	for name, end := range map[string]func(*h2test.Peer, *Conn, context.CancelFunc){
		"cancelled": func(_ *h2test.Peer, _ *Conn, cancel context.CancelFunc) { cancel() },
		"lost":      func(peer *h2test.Peer, _ *Conn, _ context.CancelFunc) { peer.Close() },
		"closed":    func(_ *h2test.Peer, conn *Conn, _ context.CancelFunc) { conn.Close() },
		"GOAWAY": func(peer *h2test.Peer, _ *Conn,
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
			got.wantErr(t, name)
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
		if err := got.wantErr(t, "cancelled"); !errors.Is(err, context.Canceled) {
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
func TestBodyWhoseCloseHangsHoldsNobody(t *testing.T) {
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
		got.wantErr(t, "reset by the peer")
		next := getAsync(conn, "/next")
		peer.WantHeaders("the connection goes on", 3)
		peer.WriteHeaders(3, wire.EndStream, ":status: 204")
		next.want(t, "the next request")
	})
}

// These tests are about windows of an upload.

func TestFramesAreAsLargeAsThePeerAllows(t *testing.T) {
	for _, test := range []struct{ peerMax, want int }{
		{16384, 16384}, {16385, 16385}, {100_000, 100_000}, {1 << 20, maxDataFrame},
		{wire.MaxMaxFrameSize, maxDataFrame},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialUploadPeer(t, nil, wire.Setting{ID: wire.SettingMaxFrameSize,
				Value: uint32(test.peerMax)})
			doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 2*test.want+1))))
			peer.WantHeaders("the request", 1)
			peer.WantData("a full frame", 1, 0, test.want)
			peer.WantData("a full frame", 1, 0, test.want)
			peer.WantData("the rest", 1, wire.EndStream, 1)
		})
	}
}

func TestSmallerFrameSizeHoldsFromItsAcknowledgment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingMaxFrameSize, Value: 1 << 20})
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 65535+20_000))))
		peer.WantHeaders("the request", 1)
		peer.WantData("one frame, as large as the windows", 1, 0, 65535)
		peer.WriteSettings(wire.Setting{ID: wire.SettingMaxFrameSize, Value: wire.MinMaxFrameSize})
		peer.WantSettingsAck("the new limit")
		peer.WriteWindowUpdate(0, 1<<20)
		peer.WriteWindowUpdate(1, 1<<20)
		peer.WantData("within the new limit", 1, 0, 16384)
		peer.WantData("the rest", 1, wire.EndStream, 20_000-16384)
	})
}

func TestTinyWindowsAreUsedToTheOctet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1})
		doAsync(context.Background(), conn, put(strings.NewReader("0123456789")))
		peer.WantHeaders("the request", 1)
		octets := peer.WantData("the window", 1, 0, 1)
		peer.WantIdle("it is used up")
		for _, n := range []int{7, 1} {
			peer.WriteWindowUpdate(1, n)
			octets = append(octets, peer.WantData("what was opened", 1, 0, n)...)
			peer.WantIdle("and no more")
		}
		peer.WriteWindowUpdate(1, 7)
		octets = append(octets, peer.WantData("the rest", 1, wire.EndStream, 1)...)
		if string(octets) != "0123456789" {
			t.Errorf("got %q", octets)
		}
	})
}

func TestUploadWaitsForWindow(t *testing.T) {
	const initial = wire.SettingInitialWindowSize
	tests := []struct {
		reason string
		stream uint32 // INITIAL_WINDOW_SIZE
		first  int    // bytes that are sent at once
		open   func(*h2test.Peer)
	}{
		{"WINDOW_UPDATE of the stream", 0, 0, func(p *h2test.Peer) { p.WriteWindowUpdate(1, 1<<20) }},
		{"SETTINGS", 0, 0, func(p *h2test.Peer) {
			p.WriteSettings(wire.Setting{ID: initial,
				Value: 70_000})
		}},
		{"WINDOW_UPDATE of the connection", 1 << 20, 65535,
			func(p *h2test.Peer) { p.WriteWindowUpdate(0, 1<<20) }},
	}
	for _, test := range tests {
		for _, kind := range uploadKinds {
			if kind.slow {
				continue
			}
			t.Run(test.reason+"/"+kind.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer, conn := dialPeer(t, nil, wire.Setting{ID: initial, Value: test.stream})
					peer.Ignore(wire.Settings)
					if test.first == 0 {
						peer.WriteWindowUpdate(0, 1<<20)
					}
					data := uploadData(70_000)
					doAsync(context.Background(), conn, put(kind.make(t, data)))
					peer.WantHeaders("HEADERS need no window", 1)
					for left := test.first; left > 0; {
						f := peer.WantFrame("what the window allows", wire.Data)
						data = data[f.Length:]
						left -= f.Length
					}
					peer.WantIdle("no window, no DATA")
					test.open(peer)
					peer.WantBody(test.reason, 1, data)
				})
			})
		}
	}
}

// RFC 9113 §6.9.2: a smaller SETTINGS_INITIAL_WINDOW_SIZE can make windows negative, and the sender
// MUST track that.
func TestNegativeWindowIsWorkedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 100})
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 150))))
		peer.WantHeaders("the request", 1)
		peer.WantData("the window", 1, 0, 100)
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 40})
		peer.WantSettingsAck("the window is -60")
		peer.WriteWindowUpdate(1, 59)
		peer.WantIdle("it is -1")
		peer.WriteWindowUpdate(1, 1)
		peer.WantIdle("it is 0")
		peer.WriteWindowUpdate(1, 1)
		peer.WantData("it is 1", 1, 0, 1)
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 60})
		peer.WantSettingsAck("20 more")
		peer.WantData("20 more", 1, 0, 20)
		peer.WantIdle("and no more")
	})
}

func TestOverflowOfStreamsWindowResetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteWindowUpdate(1, wire.MaxWindow-65535)
		peer.WantIdle("exactly 2^31-1 is allowed")
		peer.WriteWindowUpdate(1, 1)
		peer.WantRSTStream("RFC 9113 §6.9.1", 1, wire.FlowControlError)
		if err := got.wantErr(t, "reset"); !errors.Is(err, ErrCodeFlowControl) {
			t.Error(err)
		}
	})
}

func TestOverflowOfConnectionsWindowEndsIt(t *testing.T) {
	for name, overflow := range map[string]func(*h2test.Peer){
		"WINDOW_UPDATE": func(p *h2test.Peer) { p.WriteWindowUpdate(0, wire.MaxWindow-65535+1) },
		"SETTINGS": func(p *h2test.Peer) {
			p.WriteWindowUpdate(1, wire.MaxWindow-65535)
			p.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 65536})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", 1)
			peer.Batch(func() { overflow(peer) })
			peer.WantGoAway(name, 0, wire.FlowControlError)
			if err := got.wantErr(t, name); !errors.Is(err, ErrCodeFlowControl) {
				t.Error(err)
			}
		})
	}
}

// A stream that has ended does not prevent a larger initial window.
func TestOverflowIsJudgedByLivingStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteWindowUpdate(1, wire.MaxWindow-65535)
		peer.WriteHeaders(1, wire.EndStream, ":status: 204")
		got.want(t, "the end")
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: wire.MaxWindow})
		peer.WantSettingsAck("no window is above 2^31-1")
	})
}

// However many streams wait, a SETTINGS frame changes none of them. The writer examines them once,
// later.
func TestInitialWindowFlappingTouchesNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams = 1000
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 0})
		for range streams {
			doAsync(context.Background(), conn, put(strings.NewReader("x")))
		}
		synctest.Wait()
		conn.lock()
		for i := range 1000 {
			if err := conn.setInitialSendWindowLocked(int64(i % 2)); err != nil {
				t.Fatal(err)
			}
		}
		untouched := 0
		for _, s := range conn.streams.byID {
			if s.sender.in == &conn.writer.blocked && s.sendDelta == 0 {
				untouched++
			}
		}
		conn.writer.unblock = false
		err := conn.setInitialSendWindowLocked(0)
		conn.unlock()
		if untouched != streams || err != nil {
			t.Errorf("%d of %d streams are as they were, %v", untouched, streams, err)
		}
		peer.Ignore(wire.Headers, wire.Settings)
		peer.WantIdle("no window was opened in the end")
		peer.Batch(func() {
			for i := range 500 {
				peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: uint32(1 - i%2)})
			}
		})
		peer.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1})
		for range streams {
			f := peer.WantFrame("each is served", wire.Data)
			if f.Length != 1 || !f.Flags.Has(wire.EndStream) {
				t.Fatal(f)
			}
		}
	})
}

func TestUploadsShareTheConnectionsWindowInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: 1 << 24})
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 1<<20))))
		peer.WantHeaders("first", 1)
		for _, n := range []int{16384, 16384, 16384, 16383} {
			peer.WantData("alone, it has the whole window", 1, 0, n)
		}
		doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 1<<20))))
		peer.WantHeaders("second", 3)
		peer.WantIdle("no window")
		for range 3 {
			var order []uint32
			peer.WriteWindowUpdate(0, 4*16384)
			for range 4 {
				order = append(order, peer.WantFrame("in turn", wire.Data).StreamID)
			}
			slices.Sort(order[:2])
			slices.Sort(order[2:])
			if !slices.Equal(order, []uint32{1, 3, 1, 3}) {
				t.Errorf("order of streams: %d", order)
			}
			peer.WantIdle("the window is used up")
		}
	})
}

func TestEndStreamIsNotStuckBehindBlockedData(t *testing.T) {
	for name, window := range map[string]uint32{"of the stream": 0, "of the connection": 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil, wire.Setting{ID: wire.SettingInitialWindowSize, Value: window})
			doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 1<<20))))
			peer.WantHeaders("a large upload", 1)
			for left := min(int(window), 65535); left > 0; {
				left -= peer.WantFrame("as far as it gets", wire.Data).Length
			}
			s, err := conn.Open(context.Background(), &Request{Method: "POST"})
			if err != nil {
				t.Fatal(err)
			}
			peer.WantHeaders("another request", 3)
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			peer.WantData("needs no window, though the upload waits for one "+name, 3, wire.EndStream, 0)
			doAsync(context.Background(), conn, &Request{Method: "POST", Body: strings.NewReader(""),
				Trailer: Header{{Name: "t", Value: "1"}}})
			peer.WantHeaders("nor do requests", 5)
			peer.WantHeaders("and trailers", 5, "t: 1")
		})
	}
}

// These tests are about a response that ends early.

// earlyKinds returns bodies that are too large for the windows, some in memory and some to be read.
func earlyKinds() map[string]func() io.Reader {
	return map[string]func() io.Reader{
		"in memory": func() io.Reader { return bytes.NewReader(make([]byte, 100_000)) },
		"read":      func() io.Reader { return struct{ io.Reader }{bytes.NewReader(make([]byte, 100_000))} },
	}
}

func wantFirstWindow(t *testing.T, peer *h2test.Peer) {
	t.Helper()
	for left := 65535; left > 0; {
		left -= peer.WantFrame("the first window", wire.Data).Length
	}
	peer.WantIdle("the window is used up")
}

// RFC 9113 §8.1: a server can send a complete response and then RST_STREAM with NO_ERROR. Clients
// MUST NOT discard the response.
func TestEarlyRefusalKeepsTheResponseAndStopsTheUpload(t *testing.T) {
	for name, body := range earlyKinds() {
		for _, reset := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				got := doAsync(context.Background(), conn, put(body()))
				peer.WantHeaders(name, 1)
				wantFirstWindow(t, peer)
				peer.Batch(func() {
					peer.WriteHeaders(1, 0, ":status: 413")
					peer.WriteData(1, wire.EndStream, []byte("too large"))
					if reset {
						peer.WriteRSTStream(1, wire.NoError)
					}
				})
				resp := got.want(t, name)
				wantBody(t, name, resp.Body, "too large")
				peer.WantRSTStream("the rest of the body is given up", 1, wire.NoError)
				peer.WriteWindowUpdate(0, 1<<20)
				peer.WriteWindowUpdate(1, 1<<20)
				peer.WantIdle("and does not come any more")
				if resp.StatusCode != 413 || conn.Stats().StreamsOpen != 0 {
					t.Errorf("status %d, %d streams open", resp.StatusCode, conn.Stats().StreamsOpen)
				}
			})
		}
	}
}

func TestEarlySuccessKeepsUploading(t *testing.T) {
	for name, body := range earlyKinds() {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			got := doAsync(context.Background(), conn, put(body()))
			peer.WantHeaders(name, 1)
			wantFirstWindow(t, peer)
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, wire.EndStream, []byte("fine"))
			wantBody(t, name, got.want(t, name).Body, "fine")
			peer.WantIdle("no reset")
			peer.WriteWindowUpdate(0, 1<<20)
			peer.WriteWindowUpdate(1, 1<<20)
			peer.WantBody("the rest", 1, make([]byte, 100_000-65535))
			peer.WantIdle("and nothing else")
			if open := conn.Stats().StreamsOpen; open != 0 {
				t.Errorf("%d streams open", open)
			}
		})
	}
}

// An error response without END_STREAM does not say that the request body is unwanted. The upload
// goes on until it is complete.
func TestErrorWithoutEndKeepsUploading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 70_000))))
		peer.WantHeaders("the request", 1)
		wantFirstWindow(t, peer)
		peer.WriteHeaders(1, 0, ":status: 500")
		got.want(t, "the response")
		peer.WriteWindowUpdate(0, 70_000)
		peer.WriteWindowUpdate(1, 70_000)
		peer.WantBody("the rest", 1, make([]byte, 70_000-65535))
	})
}

func TestResetBeforeTheResponsesEndIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := doAsync(context.Background(), conn, put(bytes.NewReader(make([]byte, 70_000))))
		peer.WantHeaders("the request", 1)
		wantFirstWindow(t, peer)
		peer.WriteHeaders(1, 0, ":status: 413")
		peer.WriteData(1, 0, []byte("too"))
		peer.WriteRSTStream(1, wire.NoError)
		body := got.want(t, "the response").Body
		for range 2 {
			p, err := io.ReadAll(body)
			var se *StreamError
			if !errors.As(err, &se) || !se.FromPeer || se.Code != ErrCodeNo {
				t.Errorf("%q, %v", p, err)
			}
		}
		peer.WantIdle("nothing more is sent")
	})
}

func TestWriteAfterEarlyEndReturnsTheSameErrorEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, err := conn.Open(context.Background(), put(nil))
		if err != nil {
			t.Fatal(err)
		}
		peer.WantHeaders("the request", 1)
		errs := make(chan error)
		go func() {
			n, err := s.Write(make([]byte, 100_000))
			if n != 65535 {
				t.Errorf("%d octets taken", n)
			}
			errs <- err
		}()
		wantFirstWindow(t, peer)
		peer.WriteHeaders(1, wire.EndStream, ":status: 413")
		peer.WantIdle("an early end alone does not stop a Write")
		peer.WriteRSTStream(1, wire.NoError)
		first := <-errs
		var se *StreamError
		if !errors.As(first, &se) || !se.FromPeer || se.Code != ErrCodeNo {
			t.Errorf("%v", first)
		}
		for range 2 {
			if _, err := s.Write([]byte("x")); err != first {
				t.Errorf("%v, want %v", err, first)
			}
			if err := s.CloseWrite(); err != first {
				t.Errorf("%v, want %v", err, first)
			}
		}
		resp, err := s.Response(context.Background())
		if err != nil || resp.StatusCode != 413 {
			t.Fatalf("%v, %v", resp, err)
		}
		wantBody(t, "the response is whole", resp.Body, "")
	})
}

// RFC 9110 §10.1.1 defines Expect: 100-continue.

func expecting(body io.Reader) *Request {
	r := put(body)
	r.Header.Add("Expect", "100-Continue")
	return r
}

func expectKinds() map[string]func() io.Reader {
	return map[string]func() io.Reader{
		"in memory": func() io.Reader { return strings.NewReader("body") },
		"read":      func() io.Reader { return newUploadBody("body", false) },
	}
}

func TestExpectedBodyWaitsForContinue(t *testing.T) {
	for name, body := range expectKinds() {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			start := time.Now()
			got := doAsync(context.Background(), conn, expecting(body()))
			peer.WantHeaders(name, 1, "expect: 100-Continue")
			peer.WantIdle("the body is held back")
			peer.WriteHeaders(1, 0, ":status: 103")
			peer.WantIdle("another interim response means nothing")
			peer.WriteHeaders(1, 0, ":status: 100")
			peer.WantBody("the body", 1, []byte("body"))
			if d := time.Since(start); d != 0 {
				t.Errorf("it took %v", d)
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			got.want(t, "the response")
		})
	}
}

func TestExpectedBodyIsSentAfterTheTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: time.Second,
		3 * time.Second: 3 * time.Second} {
		for name, body := range expectKinds() {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{ExpectContinueTimeout: timeout})
				start := time.Now()
				doAsync(context.Background(), conn, expecting(body()))
				peer.WantHeaders(name, 1)
				peer.WantBody("RFC 9110 §10.1.1: it need not wait for ever", 1, []byte("body"))
				if d := time.Since(start); d != want {
					t.Errorf("after %v", d)
				}
			})
		}
	}
}

func TestExpectedBodyWaitsForEverIfTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &Config{ExpectContinueTimeout: -1, KeepAlive: -1})
		doAsync(context.Background(), conn, expecting(strings.NewReader("body")))
		peer.WantHeaders("the request", 1)
		time.Sleep(time.Hour)
		peer.WantIdle("no 100, no body")
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WantBody("success says as much as 100", 1, []byte("body"))
	})
}

func TestRefusedExpectationNeverSendsTheBody(t *testing.T) {
	for name, body := range expectKinds() {
		for _, status := range []string{"413", "417"} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &Config{KeepAlive: -1})
				got := doAsync(context.Background(), conn, expecting(body()))
				peer.WantHeaders(name, 1)
				peer.WriteHeaders(1, 0, ":status: "+status)
				resp := got.want(t, "the refusal")
				time.Sleep(time.Minute)
				peer.WantIdle("the timeout does not send the body after all")
				peer.WriteData(1, wire.EndStream, []byte("no"))
				peer.WantRSTStream("it is given up", 1, wire.NoError)
				wantBody(t, "the response", resp.Body, "no")
				time.Sleep(time.Minute)
				peer.WantIdle("for good")
			})
		}
	}
}

func TestLostConnectionFreesWhoExpectsContinue(t *testing.T) {
	for name, body := range expectKinds() {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			held := body()
			got := doAsync(context.Background(), conn, expecting(held))
			peer.WantHeaders(name, 1)
			peer.Close()
			if err := got.wantErr(t, name); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
			if b, ok := held.(*uploadBody); ok {
				b.wantClosedOnce(t)
			}
		})
	}
}

func TestNothingIsHeldBackWithoutBody(t *testing.T) {
	for _, body := range []io.Reader{nil, strings.NewReader("")} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			doAsync(context.Background(), conn, expecting(body))
			if h := peer.WantHeaders("the request", 1); !h.EndStream {
				t.Error("no END_STREAM")
			}
		})
	}
}

// These tests are about the trailers of a request.

func TestTrailersFollowTheBody(t *testing.T) {
	for _, kind := range uploadKinds {
		for _, text := range []string{"", "text"} {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				req := put(kind.make(t, []byte(text)))
				req.Trailer = Header{{Name: "X-Sum", Value: "1"},
					{Name: "x-key", Value: "2", Sensitive: true}}
				doAsync(context.Background(), conn, req)
				if h := peer.WantHeaders(kind.name, 1); h.EndStream {
					t.Error("END_STREAM before the trailers")
				}
				peer.WantBody(kind.name, 1, []byte(text))
				h := peer.WantHeadersExactly(kind.name, 1, "x-sum: 1", "x-key: 2")
				if !h.EndStream || !h.Fields[1].Sensitive {
					t.Errorf("%s: END_STREAM %v, never indexed %v", kind.name, h.EndStream,
						h.Fields[1].Sensitive)
				}
				peer.WantIdle("and nothing else")
			})
		}
	}
}

func TestTrailersWithoutBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		doAsync(context.Background(), conn, &Request{Method: "POST",
			Trailer: Header{{Name: "x", Value: "1"}}})
		peer.WantHeaders("the request", 1)
		peer.WantHeadersExactly("the trailers", 1, "x: 1")
	})
}

// atEOF calls f when the reader reports its end.
type atEOF struct {
	io.Reader
	f func()
}

func (r atEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.f()
	}
	return n, err
}

func TestTrailersAreThoseOfTheBodysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		req := put(nil)
		req.Trailer = Header{{Name: "x-sum", Value: "unknown"}}
		req.Body = atEOF{strings.NewReader("text"), func() {
			req.Trailer.Set("x-sum", "1")
			req.Trailer.Add("x-more", "2")
		}}
		doAsync(context.Background(), conn, req)
		peer.WantHeaders("the request", 1)
		peer.WantBody("the body", 1, []byte("text"))
		peer.WantHeadersExactly("the trailers", 1, "x-sum: 1", "x-more: 2")
	})
}

func TestTrailersThatTurnOutBadResetTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		req := put(nil)
		req.Body = atEOF{strings.NewReader(""), func() { req.Trailer.Add(":path", "/") }}
		got := doAsync(context.Background(), conn, req)
		peer.WantHeaders("the request", 1)
		peer.WantRSTStream("it cannot end well", 1, wire.Cancel)
		if err := got.wantErr(t, "bad trailers"); !errors.As(err, new(*RequestError)) {
			t.Error(err)
		}
	})
}
