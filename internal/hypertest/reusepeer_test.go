// This file holds the servers of TestReuseModel.

package hypertest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// Each response has the number of its request: in a field, in its interim responses, in its
// trailers, and in its body, which repeats the number. The number is the first part of the path.

// early is the number in a response that a peer sends before it has the request.
const early = "earlier;"

// A reusePeer is a scripted server. It responds at random. A wild one also breaks rules, resets
// streams, sends frames after their end, and ends connections.
type reusePeer struct {
	*h2test.Peer
	wild, pushes bool

	mu   sync.Mutex // guards the fields below; encoding a block and writing it are one step
	r    *rand.Rand
	last uint32 // the last promised stream
}

// dialReusePeer makes a connection to a new reusePeer. The host's name has its kind.
func dialReusePeer(t *testing.T) dialFunc {
	return func(_ context.Context, _, addr string) (net.Conn, error) {
		client, server := h2test.Pipe()
		p := &reusePeer{Peer: h2test.NewPeer(t, server), r: rand.New(rand.NewPCG(rand.Uint64(), 1))}
		p.wild = !strings.HasPrefix(addr, "calm")
		p.pushes = strings.HasPrefix(addr, "push")
		if p.r.IntN(3) == 0 {
			client.SetChunk(1 + p.r.IntN(200)) // small reads
		}
		settings := []wire.Setting{{ID: wire.SettingMaxConcurrentStreams, Value: uint32(4 + p.r.IntN(20))}}
		p.AutoPing()
		p.Serve(func(id uint32, h h2test.Headers) {
			if h.Get(":method") == "POST" {
				p.WriteWindowUpdate(0, maxUpload)
			}
			go p.answer(id, h, rand.New(rand.NewPCG(p.random(1<<30), 2)))
		}, settings...)
		return client, nil
	}
}

// maxUpload is the most that a caller sends, in bytes.
const maxUpload = 100

// random returns a random number below n.
func (p *reusePeer) random(n int) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return uint64(p.r.IntN(n))
}

// headers sends a field section.
func (p *reusePeer) headers(id uint32, flags wire.Flags, fields ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.WriteHeaders(id, flags, fields...)
}

// data sends DATA when the windows allow it. It reports whether they did.
func (p *reusePeer) data(id uint32, flags wire.Flags, s string) bool {
	tries := 10_000
	if p.wild {
		tries = 100
	}
	for range tries {
		p.mu.Lock()
		ok := p.Credit(0) >= len(s)+10 && p.Credit(id) >= len(s)+10
		switch {
		case !ok:
		case p.r.IntN(8) == 0:
			p.WritePaddedData(id, flags, []byte(s), p.r.IntN(9))
		default:
			p.WriteData(id, flags, []byte(s))
		}
		p.mu.Unlock()
		if ok {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// lazily waits for a short time, or not at all.
func lazily(r *rand.Rand) {
	if r.IntN(3) == 0 {
		time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
	}
}

// answer responds to a request.
func (p *reusePeer) answer(id uint32, h h2test.Headers, r *rand.Rand) {
	number := numberOf(h.Get(":path"))
	lazily(r)
	if p.wild && r.IntN(10) == 0 && p.misbehave(id, r) {
		return
	}
	respond := func() { p.respond(id, number, h.Get(":method") == "HEAD", r) }
	if r.IntN(2) == 0 {
		p.Batch(respond)
	} else {
		respond()
	}
	if p.wild && r.IntN(4) == 0 {
		lazily(r)
		p.afterEnd(id, r)
	}
}

// respond sends a whole response.
func (p *reusePeer) respond(id uint32, number string, head bool, r *rand.Rand) {
	for range max(0, r.IntN(6)-3) {
		p.headers(id, 0, ":status: 103", "x-number: "+number)
	}
	size := max(0, r.IntN(6000)-1500)
	fields := []string{":status: 200", "x-number: " + number, "x-many: a " + number, "x-many: b " + number}
	if r.IntN(8) == 0 {
		fields[0], size = ":status: 204", 0
	} else if r.IntN(2) == 0 {
		fields = append(fields, "content-length: "+strconv.Itoa(size))
	}
	for i := range r.IntN(12) {
		fields = append(fields, fmt.Sprintf("x-%d: %d %s", i, i, number))
	}
	trailers := r.IntN(4) == 0
	if trailers && r.IntN(2) == 0 {
		fields = append(fields, "trailer: x-sum")
	}
	if head || size == 0 && !trailers {
		p.headers(id, wire.EndStream, fields...)
		return
	}
	p.headers(id, 0, fields...)
	body := strings.Repeat(number, size/len(number)+1)[:size]
	last := wire.EndStream
	if trailers || r.IntN(3) == 0 {
		last = 0
	}
	for len(body) > 0 {
		lazily(r)
		n := min(len(body), 1+r.IntN(3000))
		flags := wire.Flags(0)
		if n == len(body) {
			flags = last
		}
		if !p.data(id, flags, body[:n]) {
			p.WriteRSTStream(id, wire.Cancel)
			return
		}
		body = body[n:]
	}
	switch {
	case trailers:
		lazily(r)
		p.headers(id, wire.EndStream, "x-sum: "+number)
	case last == 0 || size == 0:
		lazily(r)
		p.data(id, wire.EndStream, "")
	}
}

// afterEnd sends frames for a stream that has ended.
func (p *reusePeer) afterEnd(id uint32, r *rand.Rand) {
	switch r.IntN(8) {
	case 0:
		p.WriteWindowUpdate(id, 1+r.IntN(1000))
	case 1:
		p.WriteRSTStream(id, wire.ErrCode(r.IntN(13)))
	case 2: // PRIORITY
		p.WriteFrame(wire.FrameHeader{Length: 5, Type: 2, StreamID: id}, make([]byte, 5))
	case 3:
		window := wire.Setting{ID: wire.SettingInitialWindowSize, Value: uint32(70_000 + r.IntN(100))}
		p.WriteSettings(window)
	case 4:
		if p.pushes {
			p.push(id, r)
		}
	case 5:
		p.WritePing(0, [8]byte{1})
	case 6:
		p.data(id, 0, "late")
	case 7:
		if r.IntN(4) == 0 {
			p.WriteGoAway(id, wire.NoError, "bye")
		}
	}
}

// misbehave does something else than to respond, or before it. It reports whether that was all.
func (p *reusePeer) misbehave(id uint32, r *rand.Rand) bool {
	number := early
	switch r.IntN(12) {
	case 0, 1:
		p.WriteRSTStream(id, wire.RefusedStream)
	case 2:
		p.WriteRSTStream(id, wire.ErrCode(r.IntN(13)))
	case 3:
		p.headers(id, 0, ":status: 200", "x-number: "+number)
		p.WriteRSTStream(id, wire.Cancel)
	case 4:
		p.WriteGoAway(id-2*uint32(r.IntN(2)), wire.NoError, "bye")
		return false
	case 5:
		p.Close()
	case 6: // a response to a request that has not come, or that has not been made
		p.respond(id+2, number, false, r)
		return false
	case 7:
		p.headers(id, 0, ":status: 200", "x-number: "+number, "content-length: 5")
		p.data(id, wire.EndStream, "longer than that")
	case 8: // twice
		p.headers(id, wire.EndStream, ":status: 200", "x-number: "+number)
		return false
	case 9, 10, 11:
		if p.pushes {
			p.push(id, r)
		}
		return false
	}
	return true
}

// push promises a response, and sends it.
func (p *reusePeer) push(id uint32, r *rand.Rand) {
	p.mu.Lock()
	p.last += 2
	promised := p.last
	p.WritePushPromise(id, promised, ":method: GET", ":scheme: http", ":authority: push.test",
		":path: /"+early)
	p.mu.Unlock()
	p.respond(promised, early, false, r)
}

// numberOf returns the number in a path.
func numberOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path[strings.LastIndex(path, "/")+1:]
}

// serveReuse is the handler of net/http's servers.
func serveReuse(w http.ResponseWriter, req *http.Request) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 3))
	number := numberOf(req.URL.Path)
	if strings.HasPrefix(req.URL.Path, "/moved/") {
		value := strings.TrimSuffix(number, ";")
		http.SetCookie(w, &http.Cookie{Name: "number", Value: value, Path: "/"})
		w.Header().Set("X-Number", number)
		http.Redirect(w, req, "/"+number, http.StatusFound)
		return
	}
	io.Copy(io.Discard, req.Body)
	h := w.Header()
	h.Set("X-Number", number)
	h["X-Many"] = []string{"a " + number, "b " + number}
	if c, err := req.Cookie("number"); err == nil {
		h.Set("X-Cookie", c.Value+";")
	}
	trailers := r.IntN(4) == 0
	if trailers {
		h.Set("Trailer", "X-Sum")
		defer h.Set("X-Sum", number)
	}
	if r.IntN(8) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	out, size := io.Writer(w), max(0, r.IntN(30000)-8000)
	if r.IntN(6) == 0 && strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		coded := h2test.CodingOf("gzip").Writer(w)
		defer coded.Close()
		out = coded
	}
	body := strings.Repeat(number, size/len(number)+1)[:size]
	for len(body) > 0 {
		n := min(len(body), 1+r.IntN(20000))
		io.WriteString(out, body[:n])
		body = body[n:]
		if r.IntN(3) == 0 {
			w.(http.Flusher).Flush()
			lazily(r)
		}
	}
}
