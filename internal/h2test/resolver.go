package h2test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// A Zone is a DNS server in memory. Its methods may be called at any time.
type Zone struct {
	mu      sync.Mutex
	hosts   map[string][]netip.Addr
	queries int
	silent  bool
}

// NewZone returns a server without any names.
func NewZone() *Zone { return &Zone{hosts: make(map[string][]netip.Addr)} }

// Set sets the addresses of host.
func (z *Zone) Set(host string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.hosts[host] = nil
	for _, addr := range addrs {
		z.hosts[host] = append(z.hosts[host], netip.MustParseAddr(addr))
	}
}

// SetSilent makes the server ignore all queries.
func (z *Zone) SetSilent() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.silent = true
}

// Queries returns the number of queries that the server received.
func (z *Zone) Queries() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.queries
}

// Use makes net.DefaultResolver use the server until restore is called. If it is called outside of
// a synctest bubble, the resolver can also be used inside of one.
func (z *Zone) Use() (restore func()) {
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: z.dial}
	// The first lookup reads the system's configuration.
	net.DefaultResolver.LookupNetIP(context.Background(), "ip", "first.test")
	return func() { net.DefaultResolver = before }
}

// dial connects the resolver with the server.
func (z *Zone) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go z.serve(server)
	return client, nil
}

// serve responds to the queries of a stream (RFC 1035 §4.2.2).
func (z *Zone) serve(nc net.Conn) {
	defer nc.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(nc, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(nc, query); err != nil {
			return
		}
		if response := z.answer(query); response != nil {
			nc.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(response))), response...))
		}
	}
}

// answer returns the response to query, or nil if there is none.
func (z *Zone) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.queries++; z.silent {
		return nil
	}
	m.Response, m.Authoritative, m.RecursionAvailable, m.Additionals = true, true, true, nil
	addrs, known := z.hosts[strings.TrimSuffix(q.Name.String(), ".")]
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, addr := range addrs {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}}
		switch {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			r.Body = &dnsmessage.AResource{A: addr.As4()}
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	response, err := m.Pack()
	if err != nil {
		return nil
	}
	return response
}
