package hypertest

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// ownOrigins returns a connection over TLS to example.com, made with hyper's own API, and its peer.
func ownOrigins(t *testing.T) (*accepted, *hyper.Conn) {
	client, server := h2test.Pipe()
	peer := &accepted{h2test.NewPeer(t, h2test.TLSServer(server, "h2")), client}
	dial := func(context.Context, string, string) (net.Conn, error) { return client, nil }
	conn, err := dialTLS(t.Context(), dial, hyper.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return peer, conn
}

// wantOrigins requires that conn.Origins returns want.
func wantOrigins(t *testing.T, reason string, conn *hyper.Conn, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := conn.Origins(); !slices.Equal(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: %q, want %q", reason, got, want)
	}
}

func TestOriginsOfAConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := ownOrigins(t)
		call := getAsync(conn, "/")
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		wantOrigins(t, "no ORIGIN frame", conn)
		peer.origin()
		wantOrigins(t, "RFC 8336 §2.3: the initial origin", conn, "https://example.com")
		peer.origin("https://B.test:443", "https://b.test", "https://[2001:DB8::1]:8443", "http://c.test",
			"ftp://d.test")
		six := "https://[2001:db8::1]:8443"
		wantOrigins(t, "an ORIGIN frame", conn, six, "https://b.test", "https://example.com")
		peer.respond(1, "421")
		call.Want(t, "the response").Body.Close()
		wantOrigins(t, "RFC 8336 §2.3: 421 removes the origin of the request", conn, six, "https://b.test")
		other := doAsync(t.Context(), conn, &hyper.Request{Authority: "B.test"})
		peer.WantHeaders("the request", 3)
		peer.respond(3, "421")
		other.Want(t, "the response").Body.Close()
		header := hyper.Header{{Name: ":authority", Value: "[2001:db8::1]:8443"}}
		last := doAsync(t.Context(), conn, &hyper.Request{Header: header})
		peer.WantHeaders("the request", 5)
		peer.respond(5, "421")
		last.Want(t, "the response").Body.Close()
		wantOrigins(t, "none is left", conn, []string{}...)
		if conn.Origins() == nil {
			t.Error("a set without an origin is no set")
		}
	})
}

// RFC 8336 §2.2: ORIGIN is ignored on a connection in cleartext.
func TestOriginInCleartextIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		peer.WriteRaw(wire.AppendOrigin(nil, "https://a.test"))
		wantOrigins(t, "cleartext", conn)
	})
}

// RFC 8336 §4: the memory for origins is bounded, and so is the number of ORIGIN frames.
func TestOriginsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := ownOrigins(t)
		getAsync(conn, "/")
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		peer.Ignore(wire.GoAway)
		var origins []string
		name := strings.Repeat("x", 50)
		for i := range 26 * 26 {
			origins = append(origins, "https://"+name+string([]byte{'a' + byte(i/26),
				'a' + byte(i%26)})+".test")
		}
		for range 10 {
			for i := range origins {
				origins[i] = "https://y" + strings.TrimPrefix(origins[i], "https://")
			}
			peer.origin(origins...)
		}
		size := 0
		for _, origin := range conn.Origins() {
			size += len(origin)
		}
		if size > 64<<10 || size < 32<<10 {
			t.Errorf("%d bytes of origins are kept", size)
		}
		for range 11_000 {
			peer.WriteRaw(wire.AppendOrigin(nil, "https://a.test"))
		}
		synctest.Wait()
		if err := conn.Err(); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
			t.Errorf("after thousands of frames: %v", err)
		}
	})
}

// The origins of an ORIGIN frame above 64 KiB are not read, so they do not enter the Origin Set.
func TestOriginsOfATooLargeFrameAreNotKept(t *testing.T) {
	for _, size := range []int{64 << 10, 64<<10 + 1} {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := ownOrigins(t)
			getAsync(conn, "/")
			peer.Handshake()
			peer.WantHeaders("the request", 1)
			const name = "https://a.test"
			const lengths = 2 * 2 // of both origins
			peer.origin(name, strings.Repeat("x", size-len(name)-lengths))
			if size > 64<<10 {
				wantOrigins(t, "it is too large", conn, "https://example.com")
			} else {
				wantOrigins(t, "it is as large as may be", conn, name, "https://example.com")
			}
			peer.origin("https://b.test")
			if !slices.Contains(conn.Origins(), "https://b.test") {
				t.Error("the frame after it was not read")
			}
		})
	}
}

// RFC 8336 §2.4: a connection is not authoritative for an origin that is not in its Origin Set.
func TestPushOfAnOriginThatIsNotInTheSetIsRefused(t *testing.T) {
	for _, listed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			client, server := h2test.Pipe()
			peer := &accepted{h2test.NewPeer(t, h2test.TLSServer(server, "h2")), client}
			dial := func(context.Context, string, string) (net.Conn, error) { return client, nil }
			conn, err := dialTLS(t.Context(), dial, hyper.Config{Push: &hyper.PushPolicy{}})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			call := getAsync(conn, "/")
			peer.Handshake()
			peer.WantHeaders("the request", 1)
			peer.origin()
			if listed {
				peer.origin("https://www.example.com")
			}
			peer.WritePushPromise(1, 2, ":method: GET", ":scheme: https",
				":authority: www.example.com", ":path: /pushed")
			if !listed {
				peer.WantRSTStream("the certificate covers it, the Origin Set does not", 2,
					wire.ProtocolError)
			}
			peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			resp := call.Want(t, "the response")
			n := 0
			for range resp.Pushes(t.Context()) {
				n++
			}
			if want := map[bool]int{true: 1, false: 0}[listed]; n != want {
				t.Errorf("%d pushes, want %d", n, want)
			}
			resp.Body.Close()
		})
	}
}
