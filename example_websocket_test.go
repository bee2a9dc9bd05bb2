package hyper_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// dialChat connects to a server that allows WebSockets over HTTP/2 (RFC 8441), and echoes each
// short message.
func dialChat(context.Context, string, string) (net.Conn, error) {
	client, server := h2test.Pipe()
	go func() {
		defer server.Close()
		io.ReadFull(server, make([]byte, len(wire.ClientPreface)))
		allow := wire.Setting{ID: wire.SettingEnableConnectProtocol, Value: 1}
		server.Write(wire.AppendSettings(nil, allow))
		for header := make([]byte, wire.HeaderLen); ; {
			if _, err := io.ReadFull(server, header); err != nil {
				return
			}
			h := wire.ParseFrameHeader(header)
			payload := make([]byte, h.Length)
			io.ReadFull(server, payload)
			switch {
			case h.Type == wire.Settings && !h.Flags.Has(wire.Ack):
				server.Write(wire.AppendSettingsAck(nil))
			case h.Type == wire.Headers:
				server.Write(h2test.RawFrame(wire.Headers, wire.EndHeaders, h.StreamID, []byte{0x88})) // 200
			case h.Type == wire.Data && h.Flags.Has(wire.EndStream):
				server.Write(wire.AppendData(nil, h.StreamID, wire.EndStream, nil))
			case h.Type == wire.Data: // a server's messages have no mask
				message := append([]byte{0x81, byte(len(payload) - 6)}, payload[6:]...)
				server.Write(wire.AppendData(nil, h.StreamID, 0, message))
			}
		}
	}()
	return client, nil
}

// say sends text as a WebSocket message, with a mask of zeros, and returns the response to it.
// Programs leave this to a WebSocket library.
func say(ws io.ReadWriter, text string) string {
	if _, err := ws.Write(append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)); err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 2)
	if _, err := io.ReadFull(ws, p); err != nil {
		log.Fatal(err)
	}
	p = make([]byte, p[1])
	if _, err := io.ReadFull(ws, p); err != nil {
		log.Fatal(err)
	}
	return string(p)
}

// A WebSocket over HTTP/2 is a stream, and a stream is a net.Conn.
func ExampleStream_NetConn_webSocket() {
	nc, err := dialChat(ctx, "tcp", "example.com:80")
	if err != nil {
		log.Fatal(err)
	}
	conn, err := hyper.NewConn(ctx, nc, &hyper.Config{Authority: "example.com"})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	resp, err := conn.Do(ctx, &hyper.Request{
		Method:   "CONNECT",
		Protocol: "websocket",
		Path:     "/chat",
		Header:   hyper.Header{{Name: "sec-websocket-version", Value: "13"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if resp.StatusCode != 200 {
		log.Fatalf("the server denies it: %d", resp.StatusCode)
	}
	ws := resp.Stream().NetConn()
	defer ws.Close()
	fmt.Println(say(ws, "hello"))
	// Output: hello
}

// The handshake of a WebSocket library, such as coder/websocket with DialOptions.HTTPClient, goes
// over HTTP/2 where the server allows it, and over HTTP/1.1 elsewhere.
func ExampleTransport_webSocket() {
	client := &http.Client{Transport: &hyper.Transport{
		Config:           &hyper.Config{DialContext: dialChat},
		UnencryptedHTTP2: true,
	}}
	defer client.CloseIdleConnections()

	// The library sends this.
	req, err := http.NewRequest("GET", "http://example.com/chat", nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, resp.Header.Get("Sec-WebSocket-Accept"))
	fmt.Println(say(resp.Body.(io.ReadWriter), "hello"))
	own, _ := hyper.ResponseFromHTTP(resp)
	fmt.Println("on stream", own.StreamID)
	// Output:
	// 101 Switching Protocols s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
	// hello
	// on stream 1
}
