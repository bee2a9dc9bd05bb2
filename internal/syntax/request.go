package syntax

import (
	"net"
	"strconv"
	"strings"
)

// AuthorityFault says what is wrong with s as host or host:port, or returns "".
func AuthorityFault(s string) string {
	for i := 0; i < len(s); i++ {
		if !authorityChars[s[i]] {
			return "it has " + ByteFault(s[i])
		}
	}
	if s == "" {
		return "it is empty"
	}
	return ""
}

// PathFault says why s is not the :path of a request.
func PathFault(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '#' {
			return "has " + ByteFault(s[i])
		}
	}
	if s == "*" {
		return "is only for OPTIONS"
	}
	return "does not begin with /"
}

// IsVisible reports whether s consists of visible ASCII characters, at least one.
func IsVisible(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}

// IsAuthority reports whether s has the characters of host or host:port. Userinfo is not allowed
// (RFC 9113 §8.3.1).
func IsAuthority(s string) bool {
	for i := 0; i < len(s); i++ {
		if !authorityChars[s[i]] {
			return false
		}
	}
	return s != ""
}

// authorityChars marks the characters of an authority without userinfo.
var authorityChars = func() (t [256]bool) {
	for c := byte('!'); c <= '~'; c++ {
		t[c] = !strings.ContainsRune("/?#@\\\"<>^`{|}", rune(c))
	}
	return t
}()

// HasPort reports whether authority ends with a port from 1 to 65535.
func HasPort(authority string) bool {
	_, port, err := net.SplitHostPort(authority)
	n, bad := strconv.ParseUint(port, 10, 16)
	return err == nil && bad == nil && n > 0
}

// IsPath reports whether s can be the :path of a request with this method (RFC 9113 §8.3.1).
func IsPath(s, method string) bool {
	if !IsVisible(s) || strings.Contains(s, "#") {
		return false
	}
	return s[0] == '/' || s == "*" && method == "OPTIONS"
}

// IsScheme reports whether s is the scheme of a URI (RFC 3986 §3.1).
func IsScheme(s string) bool {
	if s == "https" {
		return true
	}
	for i := 0; i < len(s); i++ {
		c := lowerByte(s[i])
		letter := 'a' <= c && c <= 'z'
		later := '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.' // not at the beginning
		if !letter && (i == 0 || !later) {
			return false
		}
	}
	return s != ""
}

// WithoutZone returns authority without the zone of an IPv6 address. A zone has a meaning on this
// machine only, and is not sent (RFC 6874 §4).
func WithoutZone(authority string) string {
	from, to := strings.IndexByte(authority, '%'), strings.IndexByte(authority, ']')
	if from < 0 || to < from || authority[0] != '[' {
		return authority
	}
	return authority[:from] + authority[to:]
}

// SplitAuthority returns the host of an authority, without brackets, and its port, or the default
// port of the scheme.
func SplitAuthority(authority, scheme string) (host, port string) {
	if host, port, err := net.SplitHostPort(authority); err == nil {
		if port == "" { // RFC 3986 §6.2.3: it is the default one
			port = DefaultPort(scheme)
		}
		return host, port
	}
	return strings.Trim(authority, "[]"), DefaultPort(scheme)
}

// DefaultPort returns the port of http or https.
func DefaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}
