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

// A Config holds the options of a connection. The zero value, and a nil *Config, make a good
// client: a field that is zero has the default that its comment states. A negative duration
// switches its timeout off, as with net.Dialer.KeepAlive. Comments say what other negative values
// mean.
//
// A Config is copied when Dial, NewConn or ConfigureTransport is called, and by a Transport when it
// is first used. The copy includes its maps, slices and PushPolicy, and TLS as copied by
// tls.Config.Clone. Later changes have no effect.
type Config struct {
	// TLS is the base of Dial's TLS configuration: roots, client certificates, verification.
	// ServerName defaults to the host, NextProtos to h2 and http/1.1, MinVersion to TLS 1.2. If TLS
	// is nil, the system's roots are used and everything is verified.
	TLS *tls.Config

	// DialContext makes Dial's transport connections. If it is nil, a net.Dialer makes them.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Scheme and Authority are used for requests that do not set their own. Dial derives them from
	// its address. For NewConn, Scheme defaults to "https" on a TLS connection and to "http" on
	// another; Authority defaults to the TLS server name or the remote address.
	Scheme    string
	Authority string

	// UserAgent is the user-agent of requests that have none. "" means "hyper".
	UserAgent string

	// KeepFrames keeps the last 64 frames of the connection, sent and received, for Conn.Dump and
	// ConnError.LastFrames. It costs 6 KiB for each connection, and no allocations. The content of
	// field blocks and DATA is not kept.
	KeepFrames bool

	// StreamTimes keeps the times of the steps of each stream, for Stream.Stats. That takes two
	// allocations and 200 bytes for each stream.
	StreamTimes bool

	// NoUserAgent adds no user-agent to requests that have none.
	NoUserAgent bool

	// TrimFieldValues strips the spaces and tabs around the field values that the peer sends. RFC
	// 9113 §8.2.1 makes a message with such a value malformed, and without TrimFieldValues hyper
	// treats it so. Some servers send such values; net/http and curl tolerate them. A Transport
	// always strips them.
	TrimFieldValues bool

	// AssumeHTTP2 uses HTTP/2 on a TLS connection whose peer chose no protocol by ALPN, and on a
	// connection of Transport.DialTLSContext that cannot report the protocol. RFC 9113 §3.3
	// requires ALPN: set AssumeHTTP2 only for peers that are known to use HTTP/2 without it. A peer
	// that chose another protocol is still refused. To send no ALPN at all, set TLS.NextProtos to
	// an empty slice that is not nil.
	AssumeHTTP2 bool

	// WindowManager makes the managers of the receive windows. If it is nil, AdaptiveWindow{}.New
	// makes them.
	WindowManager WindowManagerFactory

	// InitialStreamWindow is the number of bytes that the peer may send on a new stream before the
	// window manager grants more. It is announced as SETTINGS_INITIAL_WINDOW_SIZE.
	//
	// 0 means 256 KiB-1 with the default window manager; it means 65,535, the initial value of
	// HTTP/2, with another manager or if Push is set. A negative value announces a window of 0.
	// AdaptiveWindow announces less while very many streams are open, or while unread data fills a
	// tenth of its Budget.
	InitialStreamWindow int

	// MaxFrameSize is the largest frame payload that the peer may send, in bytes: 16 KiB to
	// 16 MiB-1. It is announced. 0 means 256 KiB.
	MaxFrameSize int

	// HeaderTableSize is the size of the decoder's compression table, in bytes. It is announced. 0
	// means 4,096. A negative value means no table.
	HeaderTableSize int

	// MaxHeaderListSize bounds a decoded field section, in bytes, with 32 bytes added for each
	// field (RFC 9113 §6.5.2). It is announced. 0 means 10 MiB, as in net/http. A larger section
	// ends its stream, and no other stream, with a *HeaderSizeError. The connection ends if a
	// section costs more than twice that bound, and more than 32 MiB, to decode.
	MaxHeaderListSize int

	// MaxHeaderMemory bounds the field sections that a connection holds at the same time, in bytes
	// counted in the same way. The bound applies to the section that is being decoded and to those
	// of responses that have not been returned, have not ended, or have unread data. 0 means
	// 64 MiB, or MaxHeaderListSize if that is larger. A negative value means no bound. A section
	// for which there is no room ends its stream with a *HeaderSizeError. Sections of up to 16 KiB
	// are not counted.
	MaxHeaderMemory int

	// Settings are sent after hyper's own settings, in this order. They are for extensions. hyper
	// itself ignores them.
	Settings []Setting

	// Push admits server push. If it is nil, hyper sends ENABLE_PUSH=0, and a promise ends the
	// connection with an error.
	Push *PushPolicy

	// Decoders adds content codings to gzip, deflate and br, or replaces those. The keys are the
	// names of the codings in lower case. A Decoder itself must bound the memory that it uses for a
	// body. The bounds below apply to what it decodes.
	Decoders map[string]Decoder

	// MaxDecodedSize bounds the decoded bytes of a body with a content coding. 0 means 1 GiB. A
	// negative value means no bound. Raw bodies have no bound.
	MaxDecodedSize int64

	// MaxDecodedRatio bounds the decoded bytes for each byte received. 0 means 1,000. A negative
	// value means no bound. It applies only after the first 32 MiB. If a body has several codings,
	// what one coding passes to the next is always bounded as well: by 16 KiB, or by 16 bytes for
	// each byte received if that is more.
	MaxDecodedRatio int64

	// KeepAlive is how long the peer may be silent before a PING checks whether it is alive.
	//
	// If KeepAlive is above 0, a PING is sent each time the peer has sent nothing for that long.
	// This can be too often for a server. By default, a gRPC server ends a connection at the third
	// PING that comes less than five minutes after the one before, unless the server has sent DATA
	// or HEADERS in between.
	//
	// If KeepAlive is 0, PINGs stay within that limit. While a stream is open, they are sent after
	// 30 s of silence, then after 60 s, then every five minutes (and 5 s). While no stream is open,
	// one PING is sent after 30 s, and another when two hours have passed. The peer's DATA and
	// HEADERS, and each new request, restart this sequence. A dead connection is detected
	// PingTimeout after the next PING: within one minute of a new request that gets no response,
	// and within 5 min 20 s in a longer silence. The longer time also applies to a new request if,
	// since the server last sent DATA or HEADERS, two PINGs for earlier requests have come early by
	// the server's count.
	//
	// If KeepAlive is negative, no such PINGs are sent.
	//
	// A Transport limits PINGs to a host that has ended a connection with "too_many_pings",
	// whatever KeepAlive is: it sends at most one PING in five minutes. Each time the host does so
	// again, the interval doubles, up to two hours.
	KeepAlive time.Duration

	// HandshakeTimeout bounds dialing and the TLS handshake together, and after that the wait for
	// the peer's SETTINGS. 0 means 10 s.
	HandshakeTimeout time.Duration

	// SettingsTimeout bounds the wait for the peer's acknowledgment of our SETTINGS. 0 means 10 s.
	SettingsTimeout time.Duration

	// PingTimeout bounds the time after a PING of KeepAlive in which the peer neither acknowledges
	// it, nor completes a frame, nor sends 4 KiB of one. 0 means 15 s.
	PingTimeout time.Duration

	// WriteStallTimeout bounds the time in which the peer accepts nothing of a write. 0 means 30 s.
	WriteStallTimeout time.Duration

	// WindowBlockedTimeout bounds the time that a reader waits at a receive window that its manager
	// does not open. 0 means no bound.
	WindowBlockedTimeout time.Duration

	// ExpectContinueTimeout bounds the time that Expect: 100-continue holds a body back. 0 means
	// 1 s.
	ExpectContinueTimeout time.Duration

	// Monitor observes the connections that an http.Transport gets by ConfigureTransport. Use one
	// Monitor for one http.Transport. Monitor has no other use.
	Monitor *Monitor

	// Trace is called for every frame as it passes the socket, and for other steps of the
	// connection. See TraceEvent.
	Trace func(TraceEvent)

	// Wire sets what the connection sends first, and other details for tests of servers and for
	// clients that must send the same bytes as another client. nil means none.
	Wire *Wire
}

// The defaults of Config.
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

// clone returns a copy of cfg that shares nothing changeable with the caller. cfg may be nil.
func (cfg *Config) clone() Config {
	if cfg == nil {
		return Config{}
	}
	c := *cfg
	c.TLS = c.TLS.Clone()
	c.Settings = slices.Clone(c.Settings)
	c.Decoders = maps.Clone(c.Decoders)
	c.Wire = c.Wire.clone()
	if c.Push != nil {
		policy := *c.Push
		c.Push = &policy
	}
	return c
}

// withDefaults returns a clone of cfg in which the defaults are filled in. It returns an error if
// cfg is not valid.
func (cfg *Config) withDefaults() (Config, error) {
	c := cfg.clone()
	if c.InitialStreamWindow == 0 {
		c.InitialStreamWindow = wire.InitialWindow
		if c.WindowManager == nil && c.Push == nil {
			c.InitialStreamWindow = adaptiveInitial
		}
	}
	c.InitialStreamWindow = max(0, c.InitialStreamWindow)
	c.applyFirstFlight()
	if c.Push != nil {
		*c.Push = c.Push.withDefaults()
	}
	c.UserAgent = or(c.UserAgent, defaultUserAgent)
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

// or returns value, or otherwise if value is the zero value.
func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// check returns an error if a field is out of range.
func (c *Config) check() error {
	switch {
	case c.MaxFrameSize < wire.MinMaxFrameSize || c.MaxFrameSize > wire.MaxMaxFrameSize:
		return fmt.Errorf("hyper: Config.MaxFrameSize %d is not between %d and %d", c.MaxFrameSize,
			wire.MinMaxFrameSize, wire.MaxMaxFrameSize)
	case c.InitialStreamWindow > wire.MaxWindow:
		return fmt.Errorf("hyper: Config.InitialStreamWindow %d is above %d", c.InitialStreamWindow,
			wire.MaxWindow)
	case c.MaxHeaderListSize < 0 || int64(c.MaxHeaderListSize) > 1<<32-1:
		return fmt.Errorf("hyper: Config.MaxHeaderListSize %d is out of range", c.MaxHeaderListSize)
	case int64(c.HeaderTableSize) > 1<<32-1:
		return fmt.Errorf("hyper: Config.HeaderTableSize %d is out of range", c.HeaderTableSize)
	}
	if err := c.Wire.check(c); err != nil {
		return err
	}
	for _, s := range c.Settings {
		if s.ID >= SettingHeaderTableSize && s.ID <= SettingMaxHeaderListSize {
			return fmt.Errorf("hyper: Config.Settings: %v has a field of its own", s.ID)
		}
	}
	return nil
}
