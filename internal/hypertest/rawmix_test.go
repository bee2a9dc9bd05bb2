package hypertest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gohyper.dev/hyper"
)

// Raw frames, exact encodings, batches and ordinary requests share a connection to net/http's
// server. Whatever the order, ordinary requests and uploads get their responses.
func TestWhatIsSentRawLeavesOtherStreamsAlone(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, len(body), r.Header["X-Mix"])
	}))
	server.EnableHTTP2, server.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	for seed := range uint64(10) {
		conn, err := hyper.Dial(t.Context(), server.Listener.Addr().String(),
			&hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true}})
		if err != nil {
			t.Fatal(err)
		}
		m := &rawMix{t: t, conn: conn, r: rand.New(rand.NewPCG(seed, 2))}
		m.request(&hyper.Request{Method: "POST"})
		for range 60 {
			m.step()
		}
		conn.Close()
	}
}

// A rawMix sends random requests and frames on one connection.
type rawMix struct {
	t    *testing.T
	conn *hyper.Conn
	r    *rand.Rand
	last uint32 // the last identifier that was used
}

// step sends something.
func (m *rawMix) step() {
	m.t.Helper()
	switch m.r.IntN(6) {
	case 0: // a raw request, whose block enters fields into the table
		m.last += 2
		block := append(hyper.FieldBlock(m.header("GET")), 0x40, 1, 'n', 1, byte('a'+m.r.IntN(26)))
		m.write(hyper.HeadersFrame(m.last, hyper.FlagEndHeaders|hyper.FlagEndStream, block))
	case 1: // a raw upload
		m.last += 2
		m.write(hyper.HeadersFrame(m.last, hyper.FlagEndHeaders, hyper.FieldBlock(m.header("POST"))),
			hyper.DataFrame(m.last, hyper.FlagEndStream, make([]byte, m.r.IntN(16384))))
	case 2:
		m.write(hyper.PingFrame(0, [8]byte{byte(m.r.IntN(256))}), hyper.Frame{Type: 0xf0, StreamID: m.last},
			hyper.SettingsFrame(hyper.Setting{ID: 0xf000, Value: 1}), hyper.WindowUpdateFrame(0, 1))
	case 3:
		m.request(&hyper.Request{Method: "POST", Framing: &hyper.Framing{DataPadding: m.r.IntN(257),
			HeaderPadding: m.r.IntN(257), Fragments: []int{m.r.IntN(10)}, MaxData: m.r.IntN(5000),
			Encode: func(hyper.Field) hyper.FieldEncoding {
				return hyper.FieldEncoding{Form: hyper.FieldForm(m.r.IntN(5)),
					Huffman: hyper.HuffmanUse(m.r.IntN(3)), NewName: m.r.IntN(2) == 0}
			}}})
	default:
		m.request(&hyper.Request{Method: "POST"})
	}
}

// header returns the header of a raw request.
func (m *rawMix) header(method string) hyper.Header {
	return hyper.Header{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"},
		{Name: ":path", Value: "/"}, {Name: ":authority", Value: "example.com"}}
}

// write sends frames.
func (m *rawMix) write(frames ...hyper.Frame) {
	m.t.Helper()
	if err := m.conn.WriteFrame(m.t.Context(), frames...); err != nil {
		m.t.Fatal(err)
	}
}

// request sends req with a field and a body, in a batch or not, and checks the response.
func (m *rawMix) request(req *hyper.Request) {
	m.t.Helper()
	body := bytes.Repeat([]byte("b"), m.r.IntN(50000))
	value := strings.Repeat("v", 1+m.r.IntN(50))
	req.Header, req.Body = hyper.Header{{Name: "x-mix", Value: value}}, bytes.NewReader(body)
	var s *hyper.Stream
	var err error
	open := func() { s, err = m.conn.Open(m.t.Context(), req) }
	if m.r.IntN(2) == 0 {
		open()
	} else if failed := m.conn.Batch(m.t.Context(), open); failed != nil && failed != hyper.ErrBatchSplit {
		m.t.Fatal(failed)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.last = s.ID()
	resp, err := s.Response(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if want := fmt.Sprint(len(body), []string{value}); err != nil || string(got) != want {
		m.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}
