package h2test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/wire"
)

func TestPeerOverTLSInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := Pipe()
		peer := NewPeer(t, TLSServer(s, "h2"))
		config := ClientTLS()
		config.ServerName, config.NextProtos = "example.com", []string{"h2"}
		client := tls.Client(c, config)
		if _, err := client.Write(wire.AppendSettings([]byte(wire.ClientPreface))); err != nil {
			t.Fatal(err)
		}
		if proto := client.ConnectionState().NegotiatedProtocol; proto != "h2" {
			t.Errorf("negotiated %q", proto)
		}
		peer.WantPreface("over TLS")
		peer.WriteSettingsAck()
		p := make([]byte, wire.HeaderLen)
		if _, err := io.ReadFull(client, p); err != nil || wire.ParseFrameHeader(p).Flags != wire.Ack {
			t.Errorf("read %x, %v", p, err)
		}
		peer.WantIdle("and nothing else")
		client.Close()
		peer.WantClosed("the end")
	})
}

func TestEndWithoutCloseNotifyIsNoOrderlyEnd(t *testing.T) {
	for _, goodbye := range []bool{true, false} {
		c, s := Pipe()
		server := TLSServer(s)
		go func() {
			config := ClientTLS()
			config.ServerName = "example.com"
			client := tls.Client(c, config)
			client.Write([]byte("hello"))
			if goodbye {
				client.CloseWrite()
			}
			c.Close()
		}()
		got, err := io.ReadAll(server)
		if string(got) != "hello" || (err == nil) != goodbye || !goodbye && err != ErrNoCloseNotify {
			t.Errorf("with close_notify %v: %q, %v", goodbye, got, err)
		}
	}
}

func TestCertificateNames(t *testing.T) {
	for _, name := range []string{"localhost", "example.com", "www.example.com", "127.0.0.1", "::1"} {
		if err := Certificate().Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if err := Certificate().Leaf.VerifyHostname("example.org"); err == nil {
		t.Error("the certificate is good for example.org")
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{Roots: Roots(), KeyUsages: []x509.ExtKeyUsage{use}}
		if _, err := Certificate().Leaf.Verify(options); err != nil {
			t.Error(err)
		}
	}
}
