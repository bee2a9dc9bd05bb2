package hyper

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// A Config holds what a connection can be told. The zero value, and nil in its place, is a good
// client. A duration below zero switches its timeout off.
//
// It is copied, with the maps, the slices and the PushPolicy in it, and TLS as by tls.Config.Clone:
// when Dial, NewConn or ConfigureTransport is called, and by a Transport when it is first used.
// Later changes have no effect.
type Config struct {
	// TLS is the base of Dial's TLS configuration: roots, client certificates, verification. ServerName
	// defaults to the host, NextProtos to h2 and http/1.1, MinVersion to TLS 1.2. Nil: system roots, everything verified.
	TLS *tls.Config

	// DialContext makes Dial's transport connections; net.Dialer's method where it is nil.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Scheme and Authority are used for requests that do not name their own. Dial derives them from its address; for
	// NewConn they default to "https" on a TLS connection, else "http", and to the TLS server name or the remote address.
	Scheme    string
	Authority string

	// UserAgent is sent by default, "hyper" where it is empty, nothing where it is "-".
	UserAgent string

	// WindowManager makes the managers of the receive windows. Nil: Adaptive{}.New.
	WindowManager WindowManagerFactory

	// InitialStreamWindow is announced as SETTINGS_INITIAL_WINDOW_SIZE, in octets: what the peer
	// may send on a new stream unasked. 0: 256 KiB - 1 with the default window manager; 65,535, the
	// protocol's own start, with another one or where Push is set. To announce no window at all,
	// make it negative. Adaptive announces less while very many streams are open or what is not
	// read fills a tenth of its Budget.
	InitialStreamWindow int

	MaxFrameSize    int // announced; 16 KiB to 16 MiB-1; 0: 256 KiB
	HeaderTableSize int // announced; of the decoder's compression table; 0: 4,096; negative: no table

	// MaxHeaderListSize bounds a decoded field section, in bytes, with 32 counted for each field
	// (RFC 9113 §6.5.2): 10 MiB where it is 0, as in net/http. It is announced. A larger section
	// ends its stream with a *HeaderSizeError, and no other; the connection ends where one costs
	// more than twice that, and more than 32 MiB, to decode.
	MaxHeaderListSize int

	// MaxHeaderMemory bounds the field sections that a connection holds at once, in bytes counted
	// in the same way: that which is being decoded, and those of responses that have not been
	// returned yet, or have not ended, or have something unread. It is 64 MiB where it is 0, and at least
	// MaxHeaderListSize then; there is no bound where it is negative. A section for which there is
	// no room ends its stream with a *HeaderSizeError. Sections of up to 16 KiB are not counted.
	MaxHeaderMemory int

	// TrimBlanks takes blanks away that the peer sends around field values. RFC 9113 §8.2.1 has such a message be malformed, and
	// so it is without this; but servers send them, and net/http and curl bear it. A Transport always does.
	TrimBlanks bool

	// AssumeHTTP2 speaks HTTP/2 on a TLS connection whose peer chose no protocol by ALPN, and on one
	// of Transport.DialTLSContext that cannot tell. RFC 9113 §3.3 requires ALPN: it is for peers
	// that are known to speak HTTP/2 without it. A peer that chose another protocol is refused all
	// the same. To send no ALPN at all, set TLS.NextProtos to a list that is empty and not nil.
	AssumeHTTP2 bool

	// Settings are sent behind hyper's own, in this order: extensions, which hyper ignores itself.
	Settings []Setting

	// Push admits server push. Nil: ENABLE_PUSH=0, and a promise is a connection error.
	Push *PushPolicy

	// Decoders adds content codings to gzip, deflate and br, or replaces them, by lower-case name.
	// What memory a Decoder takes for a body is up to the Decoder; the bounds below hold for what
	// it decodes.
	Decoders map[string]Decoder

	// MaxDecodedSize bounds the decoded octets of a body with a content coding: 1 GiB where it is
	// 0, none where it is negative. MaxDecodedRatio bounds decoded octets per octet received: 1,000
	// where it is 0, none where it is negative; it is looked at only beyond the first 32 MiB. Raw
	// bodies have no bound. Where a body has several codings, what one passes on to the next is
	// bounded by 16 KiB and 16 octets per octet received in any case.
	MaxDecodedSize  int64
	MaxDecodedRatio int64

	// KeepAlive is the time of silence before a PING asks whether the peer lives. Where it is set,
	// there is a PING each time the peer has sent nothing for so long, whatever the server thinks
	// of that: a gRPC server, by default, ends a connection at the third PING that comes less than
	// five minutes after the one before, unless it has sent DATA or HEADERS in between.
	//
	// Where it is 0, PINGs stay within that. While a stream is open, they are sent after 30 s of
	// silence, then 60 s, then every five minutes (and 5 s). While none is open, one is sent after
	// 30 s, and another when two hours have passed. The peer's DATA and HEADERS, and each new
	// request, begin the count anew. A dead connection is found PingTimeout after the next PING:
	// within a minute of a new request to which nothing comes, and within 5 min 20 s in a longer
	// silence. That also holds for a new request if two PINGs have come early by the server's
	// count, for earlier requests, and it has sent neither DATA nor HEADERS since.
	//
	// Below 0 there are no such PINGs. A Transport sends one PING in five minutes at most to a host
	// that has ended a connection with "too_many_pings", and waits twice as long each time that
	// happens again, whatever KeepAlive is, up to two hours.
	KeepAlive time.Duration

	HandshakeTimeout      time.Duration // Dial and TLS, and then until the peer's SETTINGS; 10 s
	SettingsTimeout       time.Duration // until the peer acknowledges our SETTINGS; 10 s
	PingTimeout           time.Duration // until the answer to a PING of KeepAlive, a frame, or 4 KiB of one; 15 s
	WriteStallTimeout     time.Duration // of the peer not accepting a write; 30 s
	WindowStallTimeout    time.Duration // of a reader waiting at a receive window that its manager keeps shut; off
	ExpectContinueTimeout time.Duration // how long Expect: 100-continue holds a body back; 1 s

	// Monitor shows the connections that an http.Transport gets by ConfigureTransport. One Monitor
	// is for one http.Transport. Nothing else uses it.
	Monitor *Monitor

	// Trace is called for every frame as it crosses the socket. See TraceEvent.
	Trace func(TraceEvent)

	encoderTableSize int // bounds the encoder's compression table; 0: 4,096
}

const (
	defaultMaxFrameSize = 256 << 10
	defaultHeaderList   = 10 << 20
	defaultHeaderMemory = 64 << 20
	defaultDecodedSize  = 1 << 30
	defaultDecodedRatio = 1000

	defaultUserAgent        = "hyper"
	defaultHandshakeTimeout = 10 * time.Second
	defaultContinueTimeout  = time.Second
)

// clone returns a copy of cfg that shares nothing with the caller, as far as it can be changed.
func (cfg *Config) clone() Config {
	if cfg == nil {
		return Config{}
	}
	c := *cfg
	c.TLS = c.TLS.Clone()
	c.Settings = slices.Clone(c.Settings)
	c.Decoders = maps.Clone(c.Decoders)
	if c.Push != nil {
		policy := *c.Push
		c.Push = &policy
	}
	return c
}

// withDefaults returns a clone of cfg with nothing left open.
func (cfg *Config) withDefaults() (Config, error) {
	c := cfg.clone()
	if c.InitialStreamWindow == 0 {
		c.InitialStreamWindow = wire.InitialWindow
		if c.WindowManager == nil && c.Push == nil {
			c.InitialStreamWindow = adaptiveInitial
		}
	}
	c.InitialStreamWindow = max(0, c.InitialStreamWindow)
	if c.Push != nil {
		*c.Push = c.Push.withDefaults()
	}
	if c.UserAgent == "" {
		c.UserAgent = defaultUserAgent
	}
	c.MaxFrameSize = or(c.MaxFrameSize, defaultMaxFrameSize)
	c.MaxHeaderListSize = or(c.MaxHeaderListSize, defaultHeaderList)
	c.MaxHeaderMemory = or(c.MaxHeaderMemory, max(defaultHeaderMemory, c.MaxHeaderListSize))
	c.HeaderTableSize = max(0, or(c.HeaderTableSize, wire.HeaderTableSize))
	c.MaxDecodedSize = or(c.MaxDecodedSize, defaultDecodedSize)
	c.MaxDecodedRatio = or(c.MaxDecodedRatio, defaultDecodedRatio)
	c.HandshakeTimeout = or(c.HandshakeTimeout, defaultHandshakeTimeout)
	c.SettingsTimeout = or(c.SettingsTimeout, 10*time.Second)
	c.PingTimeout = or(c.PingTimeout, 15*time.Second)
	c.WriteStallTimeout = or(c.WriteStallTimeout, 30*time.Second)
	c.ExpectContinueTimeout = or(c.ExpectContinueTimeout, defaultContinueTimeout)
	return c, c.check()
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func (c *Config) check() error {
	switch {
	case c.MaxFrameSize < wire.MinMaxFrameSize || c.MaxFrameSize > wire.MaxMaxFrameSize:
		return fmt.Errorf("hyper: Config.MaxFrameSize %d is not between %d and %d", c.MaxFrameSize, wire.MinMaxFrameSize, wire.MaxMaxFrameSize)
	case c.InitialStreamWindow > wire.MaxWindow:
		return fmt.Errorf("hyper: Config.InitialStreamWindow %d is above %d", c.InitialStreamWindow, wire.MaxWindow)
	case c.MaxHeaderListSize < 0 || int64(c.MaxHeaderListSize) > 1<<32-1:
		return fmt.Errorf("hyper: Config.MaxHeaderListSize %d is out of range", c.MaxHeaderListSize)
	case int64(c.HeaderTableSize) > 1<<32-1:
		return fmt.Errorf("hyper: Config.HeaderTableSize %d is out of range", c.HeaderTableSize)
	}
	for _, s := range c.Settings {
		if id := wire.SettingID(s.ID); id >= wire.SettingHeaderTableSize && id <= wire.SettingMaxHeaderListSize {
			return fmt.Errorf("hyper: Config.Settings: %v has a field of its own", id)
		}
	}
	return nil
}
