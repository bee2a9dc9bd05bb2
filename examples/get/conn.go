// This file makes connections.

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"gohyper.dev/hyper"
)

// connOptions are the options of connections.
type connOptions struct {
	insecure bool
	push     bool
	caCert   string
	cert     string
	key      string
	timeout  time.Duration // to connect; 0: hyper's
	proxy    proxyOptions
}

// addFlags adds the flags that get and get bench have.
func (o *connOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.insecure, "insecure", "k", false, "do not verify the server's certificate")
	f.StringVar(&o.caCert, "cacert", "", "trust the authorities in this PEM `file` and no others")
	f.StringVarP(&o.cert, "cert", "E", "", "use the client certificate in this PEM `file`")
	f.StringVar(&o.key, "key", "", "its key is in this PEM `file`, not in that of --cert")
	f.Var((*seconds)(&o.timeout), "connect-timeout", "give up connecting after this many `seconds`")
	o.proxy.addFlags(f)
}

// keyLogVariable is the environment variable with the file to which TLS keys are appended, for
// Wireshark.
const keyLogVariable = "SSLKEYLOGFILE"

// A dialer makes connections.
type dialer struct {
	cfg    *hyper.Config
	choose proxyChooser
	keyLog *os.File // nil: none
}

// dialer returns a dialer. The caller closes it.
func (o *connOptions) dialer() (*dialer, error) {
	choose, err := o.proxy.chooser()
	if err != nil {
		return nil, err
	}
	d := &dialer{choose: choose, cfg: &hyper.Config{HandshakeTimeout: o.timeout, TrimFieldValues: true,
		TLS: &tls.Config{InsecureSkipVerify: o.insecure}}}
	if o.caCert != "" {
		if d.cfg.TLS.RootCAs, err = readAuthorities(o.caCert); err != nil {
			return nil, err
		}
	}
	if o.cert != "" {
		pair, err := readPair(o.cert, cmp.Or(o.key, o.cert))
		if err != nil {
			return nil, err
		}
		d.cfg.TLS.Certificates = []tls.Certificate{pair}
	}
	if o.push {
		d.cfg.Push = &hyper.PushPolicy{}
	}
	if name := os.Getenv(keyLogVariable); name != "" {
		d.keyLog, err = os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", keyLogVariable, err)
		}
		d.cfg.TLS.KeyLogWriter = d.keyLog
	}
	return d, nil
}

// dial connects to the host of u, through its proxy if it has one.
func (d *dialer) dial(ctx context.Context, u *url.URL) (*hyper.Conn, error) {
	cfg := *d.cfg
	proxy, err := d.choose(u)
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		cfg.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
			nc, err := dialThrough(ctx, proxy, cfg.TLS, addr)
			if err != nil {
				err = fmt.Errorf("proxy %s: %w", proxy.Host, err)
			}
			return nc, err
		}
	}
	return hyper.Dial(ctx, u.Scheme+"://"+u.Host, &cfg)
}

// close closes the file of keys.
func (d *dialer) close() error {
	if d.keyLog == nil {
		return nil
	}
	return d.keyLog.Close()
}

// readAuthorities returns the authorities in a PEM file.
func readAuthorities(name string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", name)
	}
	return pool, nil
}

// readPair returns a client certificate with its key.
func readPair(cert, key string) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		err = fmt.Errorf("the client certificate: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	return pair, err
}
