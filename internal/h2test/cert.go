package h2test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"time"
)

// ServerTLS returns a server's configuration with a certificate for localhost, example.com,
// *.example.com, 127.0.0.1 and ::1. Without protos the server does not use ALPN.
func ServerTLS(protos ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{Certificate()}, NextProtos: protos}
}

// ErrNoCloseNotify is the error of a TLSServer whose client closed the socket without close_notify.
var ErrNoCloseNotify = errors.New("the end of the socket without close_notify")

// TLSServer returns the server's end of TLS over conn, with the configuration of ServerTLS. If the
// socket ends without close_notify, its reads return ErrNoCloseNotify. Without this, crypto/tls
// reports such an end as an orderly one.
func TLSServer(conn net.Conn, protos ...string) *tls.Conn {
	return tls.Server(bareEnd{conn}, ServerTLS(protos...))
}

// A bareEnd is a connection whose reads return ErrNoCloseNotify at the end of the socket.
type bareEnd struct{ net.Conn }

// Read implements io.Reader.
func (b bareEnd) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if err == io.EOF {
		err = ErrNoCloseNotify
	}
	return n, err
}

// ClientTLS returns a client's configuration that trusts the certificate of ServerTLS.
func ClientTLS() *tls.Config { return &tls.Config{RootCAs: Roots()} }

// Certificate returns the certificate of ServerTLS. A client can use it as well.
func Certificate() tls.Certificate { return certs().leaf }

// Roots returns a pool with the authority that signed Certificate, and no other.
func Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(certs().authority)
	return pool
}

// Authority returns the certificate of the authority that signed Certificate.
func Authority() *x509.Certificate { return certs().authority }

// CertificateFor returns a server's certificate for names other than those of Certificate, signed
// by the same authority.
func CertificateFor(names ...string) tls.Certificate { return certs().sign(3, names, nil) }

// A certSet is the authority and the certificate that it signed for the server.
type certSet struct {
	authority *x509.Certificate
	key       *ecdsa.PrivateKey // the authority's key
	leaf      tls.Certificate
}

// certs makes the certificates once. They are valid at any time that a test may use: a synctest
// bubble begins in the year 2000.
var certs = sync.OnceValue(func() certSet {
	template := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "hyper test authority"},
		NotBefore:             time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	authorityKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, &template, &template, &authorityKey.PublicKey,
		authorityKey))
	authority := must(x509.ParseCertificate(der))

	set := certSet{authority: authority, key: authorityKey}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	set.leaf = set.sign(2, []string{"localhost", "example.com", "*.example.com"}, ips)
	return set
})

// sign returns a certificate for names and ips that is signed by the authority.
func (s certSet) sign(serial int64, names []string, ips []net.IP) tls.Certificate {
	template := x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: "hyper test server"},
		NotBefore:             s.authority.NotBefore,
		NotAfter:              s.authority.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              names,
		IPAddresses:           ips,
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, &template, s.authority, &key.PublicKey, s.key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key,
		Leaf: must(x509.ParseCertificate(der))}
}

// must returns v, and panics if err is an error.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
