package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

// A capture records what connections send and receive, as a file of captured TCP packets.
type capture struct {
	mu    sync.Mutex
	file  bytes.Buffer
	conns uint16
}

// newCapture returns a capture without packets.
func newCapture() *capture {
	c := &capture{}
	// The header of a pcap file, for packets that begin with the IP header (LINKTYPE_RAW).
	for _, v := range []any{uint32(0xa1b2c3d4), uint16(2), uint16(4), uint32(0), uint32(0), uint32(1 << 18),
		uint32(101)} {
		binary.Write(&c.file, binary.LittleEndian, v)
	}
	return c
}

// dial connects, and records the connection.
func (c *capture) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns++
	recorded := &recordedConn{Conn: nc, c: c, port: 40_000 + c.conns}
	const syn, ack = 0x02, 0x10
	recorded.packet(true, syn, nil)
	recorded.next[0]++
	recorded.packet(false, syn|ack, nil)
	recorded.next[1]++
	recorded.packet(true, ack, nil)
	return recorded, nil
}

// A recordedConn is a connection of a capture.
type recordedConn struct {
	net.Conn
	c    *capture
	port uint16
	next [2]uint32 // sequence numbers of the client and the server
}

// Read implements net.Conn.
func (r *recordedConn) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.record(false, p[:n])
	return n, err
}

// Write implements net.Conn.
func (r *recordedConn) Write(p []byte) (int, error) {
	r.record(true, p)
	return r.Conn.Write(p)
}

// record adds data to the capture.
func (r *recordedConn) record(sent bool, p []byte) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	for len(p) > 0 {
		part := p[:min(len(p), 1400)]
		p = p[len(part):]
		r.packet(sent, 0x18, part) // PSH, ACK
		if sent {
			r.next[0] += uint32(len(part))
		} else {
			r.next[1] += uint32(len(part))
		}
	}
}

// packet adds one packet.
func (r *recordedConn) packet(sent bool, flags byte, p []byte) {
	const ipSize, tcpSize = 20, 20
	client, server := []byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}
	ports, seq := [2]uint16{r.port, 443}, r.next
	if !sent {
		client, server = server, client
		ports[0], ports[1] = ports[1], ports[0]
		seq[0], seq[1] = seq[1], seq[0]
	}
	b := []byte{0x45, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(ipSize+tcpSize+len(p)))
	b = append(b, 0, 0, 0x40, 0, 64, 6, 0, 0)
	b = append(append(b, client...), server...)
	b = binary.BigEndian.AppendUint16(b, ports[0])
	b = binary.BigEndian.AppendUint16(b, ports[1])
	b = binary.BigEndian.AppendUint32(b, seq[0])
	b = binary.BigEndian.AppendUint32(b, seq[1])
	b = append(b, tcpSize/4<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(b, p...)
	now := time.Now()
	for _, v := range []uint32{uint32(now.Unix()), uint32(now.Nanosecond() / 1000), uint32(len(b)),
		uint32(len(b))} {
		binary.Write(&r.c.file, binary.LittleEndian, v)
	}
	r.c.file.Write(b)
}

// keyLogDoors are the ways to make a connection with a key log.
var keyLogDoors = map[string]func(t *testing.T, url string, config *tls.Config, c *capture){
	"Dial": func(t *testing.T, url string, config *tls.Config, c *capture) {
		conn, err := hyper.Dial(t.Context(), url, &hyper.Config{TLS: config, DialContext: c.dial})
		check(t, err)
		defer conn.Close()
		resp, err := conn.Get(t.Context(), "/secret-path")
		check(t, err)
		readAll(t, resp.Body)
	},
	"NewConn": func(t *testing.T, url string, config *tls.Config, c *capture) {
		nc, err := c.dial(t.Context(), "tcp", strings.TrimPrefix(url, "https://"))
		check(t, err)
		config.NextProtos = []string{"h2"}
		conn, err := hyper.NewConn(t.Context(), tls.Client(nc, config), nil)
		check(t, err)
		defer conn.Close()
		resp, err := conn.Get(t.Context(), "/secret-path")
		check(t, err)
		readAll(t, resp.Body)
	},
	"Transport": func(t *testing.T, url string, config *tls.Config, c *capture) {
		transport := &hyper.Transport{Config: &hyper.Config{TLS: config, DialContext: c.dial}}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(url + "/secret-path")
		check(t, err)
		readAll(t, resp.Body)
	},
	"ConfigureTransport": func(t *testing.T, url string, config *tls.Config, c *capture) {
		transport := &http.Transport{TLSClientConfig: config, DialContext: c.dial}
		check(t, hyper.ConfigureTransport(transport, nil))
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(url + "/secret-path")
		check(t, err)
		readAll(t, resp.Body)
	},
}

// readAll reads and closes a body.
func readAll(t *testing.T, body io.ReadCloser) {
	_, err := io.Copy(io.Discard, body)
	check(t, err)
	check(t, body.Close())
}

// Wireshark decodes a connection with the keys that tls.Config.KeyLogWriter gets, through every
// door. The command line is the one in the package's documentation.
func TestWiresharkDecodesWithTheKeyLog(t *testing.T) {
	tshark := find(t, "tshark")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Secret", "in the response")
		io.WriteString(w, "hello")
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	for name, visit := range keyLogDoors {
		t.Run(name, func(t *testing.T) {
			dir, packets := t.TempDir(), newCapture()
			keys, err := os.Create(filepath.Join(dir, "keys.txt"))
			check(t, err)
			visit(t, server.URL, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: keys}, packets)
			check(t, keys.Close())
			file := filepath.Join(dir, "capture.pcap")
			packets.mu.Lock()
			check(t, os.WriteFile(file, packets.file.Bytes(), 0o600))
			packets.mu.Unlock()
			cmd := exec.Command(tshark, "-r", file, "-o", "tls.keylog_file:"+keys.Name(), "-Y", "http2",
				"-O", "http2")
			text, err := cmd.Output()
			check(t, err)
			for _, want := range []string{"Stream: SETTINGS", ":path: /secret-path", ":status: 200",
				"x-secret: in the response", "Stream: DATA"} {
				if !strings.Contains(string(text), want) {
					t.Errorf("tshark does not show %q:\n%.3000s", want, text)
				}
			}
		})
	}
}
