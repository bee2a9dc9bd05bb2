package floor

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"

	"golang.org/x/net/http2/hpack"

	"gohyper.dev/hyper/internal/wire"
)

// A Transport has net/http's types above the design of Conn: it encodes the fields of each request,
// makes a Response with its Header, and has a Body that the caller reads. It has no retries, no
// pool and no bounds. It is for GET requests to one server, without bodies.
type Transport struct {
	*link
	callers int
	block   bytes.Buffer
	enc     *hpack.Encoder
	dec     *hpack.Decoder

	streamsMu sync.Mutex
	streams   map[uint32]*stream

	response *http.Response // of the section that pump decodes
	values   []string       // memory of the values to come
	touched  []*stream      // what has got something since deliver
}

// NewTransport connects to addr for this many callers. Nil d dials TCP.
func NewTransport(addr string, callers int, d Dialer) (*Transport, error) {
	l, err := dial(addr, d)
	if err != nil {
		return nil, err
	}
	t := &Transport{link: l, callers: callers, streams: map[uint32]*stream{}}
	t.enc = hpack.NewEncoder(&t.block)
	t.dec = hpack.NewDecoder(4096, t.field)
	go t.pump()
	return t, nil
}

// Close closes the connection.
func (t *Transport) Close() { t.close() }

// A stream is a request and its response. It implements the body's io.ReadCloser.
type stream struct {
	wake     chan struct{}
	mu       sync.Mutex // guards what follows
	response *http.Response
	buf      []byte // of the body
	read     int    // bytes of buf that were read
	end      bool
	waiting  bool
	touched  bool
	err      error
}

// pooled are streams for reuse.
var pooled = sync.Pool{New: func() any {
	return &stream{wake: make(chan struct{}, 1), buf: make([]byte, 0, 4096)}
}}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for {
		s.mu.Lock()
		if s.read < len(s.buf) {
			n := copy(p, s.buf[s.read:])
			s.read += n
			s.mu.Unlock()
			return n, nil
		}
		if s.end {
			s.mu.Unlock()
			return 0, s.err
		}
		s.waiting = true
		s.mu.Unlock()
		<-s.wake
	}
}

// Close implements io.Closer. The body was read to its end.
func (s *stream) Close() error {
	s.mu.Lock()
	reusable := s.end && s.err == io.EOF
	s.mu.Unlock()
	if reusable {
		s.buf, s.read, s.end, s.response, s.err = s.buf[:0], 0, false, nil, nil
		pooled.Put(s)
	}
	return nil
}

// RoundTrip implements http.RoundTripper for GET.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	s := pooled.Get().(*stream)
	s.waiting = true
	t.mu.Lock()
	if t.err != nil {
		t.mu.Unlock()
		return nil, t.err
	}
	id := t.next
	t.next += 2
	t.encodeLocked(req)
	t.out = wire.AppendFrameHeader(t.out, wire.FrameHeader{Length: t.block.Len(), Type: wire.Headers,
		Flags: wire.EndStream | wire.EndHeaders, StreamID: id})
	t.out = append(t.out, t.block.Bytes()...)
	t.streamsMu.Lock()
	t.streams[id] = s
	t.streamsMu.Unlock()
	t.commitUnlocking(t.callers == 1)
	ctx := req.Context()
	if done := ctx.Done(); done == nil {
		<-s.wake
	} else {
		select {
		case <-s.wake:
		case <-done:
			return nil, ctx.Err()
		}
	}
	if s.response == nil {
		return nil, s.err
	}
	s.response.Request = req
	return s.response, nil
}

// encodeLocked encodes the request's fields. They must fit into one frame.
func (t *Transport) encodeLocked(req *http.Request) {
	t.block.Reset()
	add := func(name, value string) { t.enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	add(":authority", req.URL.Host)
	add(":method", req.Method)
	add(":path", req.URL.RequestURI())
	add(":scheme", req.URL.Scheme)
	for name, values := range req.Header {
		for _, v := range values {
			add(name, v)
		}
	}
	add("accept-encoding", "gzip")
	add("user-agent", "floor/1")
}

// names are the usual fields in the form of net/http.
var names = map[string]string{"server": "Server", "date": "Date", "content-type": "Content-Type",
	"content-length": "Content-Length", "last-modified": "Last-Modified",
	"cache-control": "Cache-Control", "etag": "Etag", "accept-ranges": "Accept-Ranges"}

// field adds a decoded field to the response.
func (t *Transport) field(f hpack.HeaderField) {
	r := t.response
	if f.Name == ":status" {
		r.StatusCode, _ = strconv.Atoi(f.Value)
		if r.StatusCode == http.StatusOK {
			r.Status = "200 OK"
		}
		return
	}
	name, ok := names[f.Name]
	if !ok {
		name = http.CanonicalHeaderKey(f.Name)
	}
	if values, ok := r.Header[name]; ok {
		r.Header[name] = append(values, f.Value)
		return
	}
	if len(t.values) == 0 {
		t.values = make([]string, 64)
	}
	t.values[0] = f.Value
	r.Header[name], t.values = t.values[:1:1], t.values[1:]
	if name == "Content-Length" {
		r.ContentLength, _ = strconv.ParseInt(f.Value, 10, 64)
	}
}

// pump reads frames until the connection ends.
func (t *Transport) pump() {
	err := t.frames()
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	t.streamsMu.Lock()
	defer t.streamsMu.Unlock()
	for _, s := range t.streams {
		s.mu.Lock()
		s.end, s.err = true, err
		s.mu.Unlock()
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	t.close()
}

// frames reads frames until there is an error, which it returns.
func (t *Transport) frames() error {
	for {
		for {
			f, ok := t.reader.next()
			if !ok {
				break
			}
			err := error(nil)
			if f.Type == wire.Data || f.Type == wire.Headers {
				err = t.receive(f)
			} else {
				err = t.control(f)
			}
			if err != nil {
				return err
			}
		}
		if len(t.socket.unread) == 0 {
			t.deliver()
		}
		t.credit()
		if err := t.reader.fill(); err != nil {
			return err
		}
	}
}

// receive takes HEADERS or DATA. It wakes the caller when the response is complete.
func (t *Transport) receive(f frame) error {
	end := f.Flags.Has(wire.EndStream)
	t.streamsMu.Lock()
	s := t.streams[f.StreamID]
	if end {
		delete(t.streams, f.StreamID)
	}
	t.streamsMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Type == wire.Headers {
		t.response = &http.Response{Proto: "HTTP/2.0", ProtoMajor: 2, Header: make(http.Header, 8),
			ContentLength: -1, Body: s}
		if _, err := t.dec.Write(f.payload); err != nil {
			return err
		}
		if err := t.dec.Close(); err != nil {
			return err
		}
		s.response = t.response
	} else {
		s.buf = append(s.buf, f.payload...)
		t.unread += len(f.payload)
	}
	if end {
		s.end, s.err = true, io.EOF
	}
	switch {
	case s.waiting && s.end:
		s.waiting, s.touched = false, false
		s.wake <- struct{}{}
	case s.waiting && !s.touched:
		s.touched = true
		t.touched = append(t.touched, s)
	}
	return nil
}

// deliver wakes the calls of the responses that have begun, when there is nothing more to read.
func (t *Transport) deliver() {
	for _, s := range t.touched {
		s.mu.Lock()
		wake := s.waiting && s.touched
		s.touched = false
		if wake {
			s.waiting = false
			s.wake <- struct{}{}
		}
		s.mu.Unlock()
	}
	t.touched = t.touched[:0]
}
