package hyper

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/pool"
	"gohyper.dev/hyper/internal/syntax"
)

// This file carries the opening handshake of a WebSocket, as net/http's users send it, over HTTP/2:
// it becomes an extended CONNECT (RFC 8441), and a 2xx response becomes 101 (Switching Protocols).

// websocketProtocol is the :protocol of a WebSocket, and the value of its Upgrade field.
const websocketProtocol = "websocket"

// opensWebSocket reports whether req is the opening handshake of a WebSocket (RFC 6455 §4.1).
func opensWebSocket(req *http.Request) bool {
	return asksForWebSocket(req) && len(req.Header["Upgrade"]) == 1 && or(req.Method, "GET") == "GET" &&
		(req.Body == nil || req.Body == http.NoBody) && websocketKey(req.Header) != "" &&
		listsUpgrade(req.Header["Connection"])
}

// asksForWebSocket reports whether req has an Upgrade field for a WebSocket.
func asksForWebSocket(req *http.Request) bool {
	return syntax.EqualFold(firstValue(req.Header, "Upgrade"), websocketProtocol)
}

// listsUpgrade reports whether the values of a Connection field list Upgrade.
func listsUpgrade(connection []string) bool {
	for _, value := range connection {
		for option := range strings.SplitSeq(value, ",") {
			if syntax.EqualFold(strings.Trim(option, " \t"), "upgrade") {
				return true
			}
		}
	}
	return false
}

// websocketKey returns the value of Sec-WebSocket-Key. Some programs write the name as the RFC
// does, which is not the canonical form of net/http.
func websocketKey(h http.Header) string {
	return or(firstValue(h, "Sec-Websocket-Key"), firstValue(h, "Sec-WebSocket-Key"))
}

// websocketAccept returns the Sec-WebSocket-Accept for a key (RFC 6455 §4.2.2).
func websocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// openWebSocket makes r, which was made from the opening handshake of a WebSocket, an extended
// CONNECT. RFC 8441 §5: the key is not used.
func (r *Request) openWebSocket() {
	r.Method, r.Protocol = "CONNECT", websocketProtocol
	r.Header.Del("sec-websocket-key")
}

// opensTunnel reports whether the request is a CONNECT whose tunnel the caller writes to.
func (r *Request) opensTunnel() bool { return r.Body == nil && r.method() == "CONNECT" }

// errNoExtendedConnect is the error of an extended CONNECT that the peer's SETTINGS do not allow.
var errNoExtendedConnect = &RequestError{":protocol", "is not allowed by the peer's SETTINGS (RFC 8441)"}

// tunnelMemory is how long a Transport remembers that a host's SETTINGS do not allow extended
// CONNECT.
const tunnelMemory = http1Memory

// refusesWebSocket returns errNoExtendedConnect if x opens a WebSocket and the host is known not to
// allow it over HTTP/2.
func (h *host) refusesWebSocket(x *exchange) error {
	if x.req.Protocol != websocketProtocol || !opensWebSocket(x.httpReq) {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.noTunnelUntil) {
		return errNoExtendedConnect
	}
	return nil
}

// noTunnels records that the host's SETTINGS do not allow extended CONNECT.
func (h *host) noTunnels() {
	h.mu.Lock()
	h.noTunnelUntil = time.Now().Add(tunnelMemory)
	h.mu.Unlock()
}

// Some servers allow more WebSockets in their SETTINGS than they serve on a connection, and leave
// the others without a response: Apache httpd serves six at first. A Transport gives such a
// handshake up, and sends it on another connection. A server that is merely slow must not get ever
// more handshakes, so the time is doubled each time, and their number is limited. For the same
// reason, what the host was thus seen to serve is soon tried anew, even if it sends no response.
const (
	stallTime = 2 * time.Second
	maxStalls = 3
)

// errStalled is the error of a handshake that was given up.
var errStalled = errors.New("hyper: peer does not respond to a WebSocket beside others on its connection")

// growLater lets the host serve more streams on each connection after a while, step by step, until
// its SETTINGS are the only limit.
func (h *host) growLater() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.growing {
		return
	}
	h.growing = true
	time.AfterFunc(pool.CapacityDoubles, func() {
		h.mu.Lock()
		limited := h.Record.Grow()
		h.growing = false
		h.mu.Unlock()
		h.stateChanged()
		if limited {
			h.growLater()
		}
	})
}

// mayStall reports whether x opens a WebSocket and can use another connection.
func (x *exchange) mayStall() bool {
	return x.route != oneConn && x.req.Protocol == websocketProtocol && opensWebSocket(x.httpReq)
}

// handshakeResponse waits for the response to the handshake of a WebSocket, for at most
// headerTimeout. It gives the handshake up if there is no response, but there are other WebSockets
// on the connection.
func (x *exchange) handshakeResponse(ctx context.Context, s *Stream) (*Response, error) {
	if x.extras == nil {
		x.extras = &exchangeExtras{}
	}
	left := or(x.headerTimeout(), math.MaxInt64)
	for {
		d := min(left, stallTime<<x.extras.stalls)
		resp, err, late := s.responseWithin(ctx, d)
		switch left -= d; {
		case !late:
			return resp, err
		case left <= 0:
			return nil, errHeaderTimeout
		case x.extras.stalls < maxStalls && s.c.hasTunnels():
			x.extras.stalls++
			return nil, errStalled
		}
	}
}

// hasTunnels reports whether a tunnel is open on the connection.
func (c *Conn) hasTunnels() bool {
	c.lock()
	defer c.unlock()
	for _, s := range c.streams.byID {
		if s.answered() && s.req.opensTunnel() {
			return true
		}
	}
	return false
}

// switches reports whether r is the peer's consent to the WebSocket that req opens.
func (r *Response) switches(req *http.Request) bool {
	return r.Request.Protocol == websocketProtocol && r.StatusCode/100 == 2 && req != nil &&
		opensWebSocket(req)
}

// switchProtocols makes the http.Response one of status 101, with the fields and the Body that
// net/http's response has. As with net/http, the end of the request's context has no effect on the
// WebSocket from now on.
func (h *httpResponse) switchProtocols() *http.Response {
	s, answer := h.own.s, &h.answer
	s.c.lock()
	s.unwatchLocked()
	s.c.unlock()
	answer.StatusCode = http.StatusSwitchingProtocols
	answer.Status = statusLine(answer.StatusCode)
	answer.Header.Set("Connection", "Upgrade")
	answer.Header.Set("Upgrade", websocketProtocol)
	answer.Header.Set("Sec-WebSocket-Accept", websocketAccept(websocketKey(h.req.Header)))
	answer.Header.Del("Content-Length")
	answer.ContentLength, answer.Uncompressed = 0, false
	answer.Body = (*upgradedBody)(h)
	return answer
}

// An upgradedBody is the Body of a response of status 101: an io.ReadWriteCloser of the WebSocket's
// bytes.
type upgradedBody httpResponse

// Read implements io.Reader.
func (b *upgradedBody) Read(p []byte) (int, error) {
	n, err := b.own.s.read(p)
	return n, tunnelError(err, b.use.Load()&useClosed != 0)
}

// Write implements io.Writer.
func (b *upgradedBody) Write(p []byte) (int, error) {
	n, err := b.own.s.Write(p)
	return n, tunnelError(err, b.use.Load()&useClosed != 0)
}

// CloseWrite ends our direction with END_STREAM.
func (b *upgradedBody) CloseWrite() error { return b.own.s.CloseWrite() }

// closeTime is how long the peer of a closed WebSocket may take to end its direction.
const closeTime = 2 * time.Second

// Close ends the WebSocket. RFC 8441 §5: an orderly close of TCP is END_STREAM. RST_STREAM could
// discard a Close frame of the WebSocket on its way through a proxy, so that it is sent only if the
// peer does not end its direction within closeTime, or if a Write is in progress.
func (b *upgradedBody) Close() error {
	if b.use.Or(useClosed)&useClosed != 0 {
		return nil
	}
	s := b.own.s
	if !s.endTunnel() {
		s.closeRead()
		return nil
	}
	go func() {
		s.SetReadDeadline(time.Now().Add(closeTime))
		p := make([]byte, 512)
		for {
			if _, err := s.read(p); err != nil {
				s.closeRead()
				return
			}
		}
	}()
	return nil
}

// endTunnel ends our direction with END_STREAM if no Write is in progress. It reports whether the
// peer's direction is still open then.
func (s *Stream) endTunnel() (waits bool) {
	s.c.lock()
	defer s.c.unlock()
	if s.sendErr == nil && !s.sender.busy {
		s.sender.then = endStream
		s.sendEndLocked()
	}
	return s.sendErr == ErrSendEnded && s.recvErr == nil
}
