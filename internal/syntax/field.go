// Package syntax judges the texts of HTTP: field names and values, authorities, paths, lists and
// lengths (RFC 9110, RFC 9113 §8). It is pure: it knows no connection and keeps no state.
//
// A function Is… reports whether a text is valid. A function …Fault says in words what is wrong
// with it.
package syntax

import "strconv"

// IsPseudo reports whether name is that of a pseudo-header field, such as ":path".
func IsPseudo(name string) bool { return len(name) > 0 && name[0] == ':' }

// tokenChars marks the characters of a token (RFC 9110 §5.6.2).
var tokenChars = func() (t [256]bool) {
	for c := byte('a'); c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789") {
		t[c] = true
	}
	return t
}()

// nameChars marks the characters of a field name on the wire: those of a token, without upper case
// (RFC 9113 §8.2).
var nameChars = func() (t [256]bool) {
	for c := range t {
		t[c] = tokenChars[c] && (c < 'A' || c > 'Z')
	}
	return t
}()

// IsToken reports whether s is a token (RFC 9110 §5.6.2), as field names and methods are.
func IsToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return s != ""
}

// IsConnectionSpecific reports whether name, in lower case, is that of a field which RFC 9113
// §8.2.2 forbids in both directions.
func IsConnectionSpecific(name string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// TokenFault says why s is not a token.
func TokenFault(s string) string {
	for i := 0; i < len(s); i++ {
		if !tokenChars[s[i]] {
			return "it has " + ByteFault(s[i])
		}
	}
	return "it is empty"
}

// FieldFault says what is wrong with a regular field that the peer sent, or returns "". A name is a
// token in lower case, a value has no NUL, CR or LF and no blank at either end (RFC 9113 §8.2.1).
// The other control characters are invalid by RFC 9110 §5.5. They are refused too, as net/http
// refuses them.
func FieldFault(name, value string) string {
	if name == "" {
		return "a field without a name"
	}
	valid := true
	for i := 0; i < len(name); i++ {
		valid = valid && nameChars[name[i]]
	}
	if !valid {
		return "the field name " + Printable(name)
	}
	if IsConnectionSpecific(name) {
		return "the connection-specific field " + name
	}
	if IsMalformedValue(value) {
		return "the value of " + name
	}
	return ""
}

// IsMalformedValue reports whether a field value has a control character, or a blank at either end.
func IsMalformedValue(value string) bool {
	return HasControl(value) || value != "" && (IsBlank(value[0]) || IsBlank(value[len(value)-1]))
}

// ParseLength parses a content-length (RFC 9110 §8.6): digits, without a sign, and not a list. It
// returns false for anything else, and for a length above 2^63-1.
func ParseLength(s string) (int64, bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
