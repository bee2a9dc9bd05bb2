package netconn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// A bareTLS has a state and no other method of TLS.
type bareTLS struct {
	net.Conn
	state tls.ConnectionState
}

func (c *bareTLS) ConnectionState() tls.ConnectionState { return c.state }

// An otherState is the state of another TLS implementation.
type otherState struct {
	Version            uint16
	NegotiatedProtocol otherText
	ServerName         int // has another kind
	Renegotiated       bool
	*otherResult
	peerCertificates [][]byte
}

// An otherText is a string of another type.
type otherText string

// An otherResult is embedded in an otherState. It is nil before the handshake.
type otherResult struct{ DidResume bool }

// An otherTLS is a connection of another TLS implementation.
type otherTLS struct {
	net.Conn
	lower net.Conn
	state otherState
}

func (c *otherTLS) ConnectionState() otherState { return c.state }
func (c *otherTLS) NetConn() net.Conn           { return c.lower }

// A shakingTLS is an otherTLS with a handshake that takes no context.
type shakingTLS struct {
	otherTLS
	shake func() error
}

func (c *shakingTLS) Handshake() error { return c.shake() }

// A contextTLS is an otherTLS with a handshake that takes a context.
type contextTLS struct {
	otherTLS
	shake func(context.Context) error
}

func (c *contextTLS) HandshakeContext(ctx context.Context) error { return c.shake(ctx) }
func (c *contextTLS) Handshake() error                           { panic("must not be called") }

// A statefulConn has a ConnectionState method of another meaning, or with another signature.
type statefulConn[T any] struct {
	net.Conn
	ConnectionStateFunc func() T
}

func (c statefulConn[T]) ConnectionState() T { return c.ConnectionStateFunc() }

// A stateOfConn has a ConnectionState method that takes an argument.
type stateOfConn struct{ net.Conn }

func (stateOfConn) ConnectionState(int) tls.ConnectionState { return tls.ConnectionState{} }

func TestTLSOfRecognizesConnectionsByTheirState(t *testing.T) {
	client, _ := h2test.Pipe()
	own := tls.Client(client, &tls.Config{})
	if got := TLSOf(own); got != TLSConn(own) {
		t.Errorf("crypto/tls: %T", got)
	}
	for _, nc := range []net.Conn{&bareTLS{Conn: client}, &otherTLS{Conn: client}, &contextTLS{},
		statefulConn[struct{ NegotiatedProtocol string }]{}} {
		if TLSOf(nc) == nil {
			t.Errorf("%T is no TLS connection", nc)
		}
	}
	for _, nc := range []net.Conn{client, statefulConn[string]{}, statefulConn[struct{ Open bool }]{},
		statefulConn[struct{ NegotiatedProtocol int }]{}, stateOfConn{}} {
		if TLSOf(nc) != nil {
			t.Errorf("%T is a TLS connection", nc)
		}
	}
}

func TestStateOfAnotherImplementationIsConverted(t *testing.T) {
	other := &otherTLS{state: otherState{Version: tls.VersionTLS13, NegotiatedProtocol: "h2", ServerName: 7,
		peerCertificates: [][]byte{{1}}}}
	want := tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: "h2", HandshakeComplete: true}
	if got := TLSOf(other).ConnectionState(); !reflect.DeepEqual(got, want) {
		t.Errorf("without the embedded result: %+v", got)
	}
	other.state.otherResult = &otherResult{DidResume: true}
	want.DidResume = true
	if got := TLSOf(other).ConnectionState(); !reflect.DeepEqual(got, want) {
		t.Errorf("with the embedded result: %+v", got)
	}
	bare := &bareTLS{state: tls.ConnectionState{ServerName: "example.com"}}
	if got := TLSOf(bare).ConnectionState(); got.ServerName != "example.com" || !got.HandshakeComplete {
		t.Errorf("of crypto/tls's type: %+v", got)
	}
	if got := TLSOf(&shakingTLS{}).ConnectionState(); got.HandshakeComplete {
		t.Error("the handshake is complete before it was run")
	}
}

func TestHandshakeOfAnotherImplementation(t *testing.T) {
	failure := errors.New("bad certificate")
	for name, test := range map[string]struct {
		nc   net.Conn
		want error
	}{
		"no handshake":   {&otherTLS{}, nil},
		"success":        {&shakingTLS{shake: func() error { return nil }}, nil},
		"failure":        {&shakingTLS{shake: func() error { return failure }}, failure},
		"with a context": {&contextTLS{shake: func(context.Context) error { return failure }}, failure},
	} {
		if err := TLSOf(test.nc).HandshakeContext(t.Context()); err != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestEndOfTheContextEndsAHandshakeWithoutContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := h2test.Pipe()
		nc := &shakingTLS{otherTLS: otherTLS{Conn: client}}
		nc.shake = func() error {
			_, err := client.Read(make([]byte, 1)) // the peer sends nothing
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := TLSOf(nc).HandshakeContext(ctx); err != context.DeadlineExceeded {
			t.Errorf("the handshake: %v", err)
		}
	})
}
