// Package tracing records what the events of traced connections say, within bounds, and writes it
// as an HTTP archive (HAR) or as a page with a waterfall.
//
// It knows no connection: it gets plain values and returns bytes. It keeps no values of credentials
// and cookies.
package tracing

import (
	"strconv"
	"strings"

	"gohyper.dev/hyper/internal/syntax"
)

// IsSecret reports whether a field with this name has a value that must not be shown: credentials
// and cookies.
func IsSecret(name string) bool {
	lower := syntax.Lower(name)
	for _, end := range secretNames {
		if strings.HasSuffix(lower, end) {
			return true
		}
	}
	return false
}

// secretNames are the ends of the names of fields that have credentials.
var secretNames = []string{"authorization", "cookie", "token", "secret", "password", "api-key", "apikey",
	"api_key", "access-key"}

// Shown returns the value of f as it may be shown: its length if it may be a secret, and without
// the credentials of a URL.
func (f Field) Shown() string {
	switch {
	case f.Sensitive || IsSecret(f.Name):
		return inBytes(len(f.Value))
	case hasURL(f.Name):
		return Redact(f.Value)
	}
	return f.Value
}

// inBytes returns what is shown instead of n bytes.
func inBytes(n int) string { return "[" + strconv.Itoa(n) + " bytes]" }

// hasURL reports whether the value of a field has a path or a URL. Their queries may have
// credentials.
func hasURL(name string) bool {
	switch syntax.Lower(name) {
	case ":path", "location", "referer", "content-location":
		return true
	}
	return false
}

// names are the names of values, in lower case, that are credentials. After the name there is a
// colon or an equals sign, perhaps after the closing quote of a JSON string.
var names = []string{"authorization", "cookie", "token", "password", "passwd", "secret", "api_key", "apikey",
	"api-key", "access_key", "access-key"}

// markers are other words, in lower case, after which text may contain a credential.
var markers = []string{"bearer ", "basic ", "session=", "sessionid=", "sig=", "signature=", "?key=", "&key="}

// quotes are the bytes of a quote, also of one that is escaped.
const quotes = `"'\`

// Redact returns text in which what looks like a credential is replaced by its length: the word
// that follows "Bearer ", "token=" and the like.
func Redact(text string) string {
	lower := syntax.Lower(text)
	var b strings.Builder
	done := 0
	for at := 0; at < len(text); {
		end := secretAt(lower, at)
		if end == 0 {
			at++
			continue
		}
		from := end + skip(text[end:], " "+quotes)
		// A scheme such as "Bearer" after "authorization:" is shown, and what follows it is not.
		if next := secretAt(lower, from); next > 0 {
			at = from
			continue
		}
		to := from
		for to < len(text) && strings.IndexByte(" \t\r\n,;&"+quotes, text[to]) < 0 {
			to++
		}
		if to > from {
			b.WriteString(text[done:from])
			b.WriteString(inBytes(to - from))
			done = to
		}
		at = max(to, end)
	}
	if done == 0 {
		return text
	}
	return b.String() + text[done:]
}

// skip returns how many bytes at the beginning of text are in set.
func skip(text, set string) int { return len(text) - len(strings.TrimLeft(text, set)) }

// secretAt returns where the name or the marker that begins at the index at ends, with what
// separates it from the credential, or 0 if none begins there.
func secretAt(lower string, at int) int {
	for _, m := range markers {
		if strings.HasPrefix(lower[at:], m) {
			return at + len(m)
		}
	}
	for _, name := range names {
		if !strings.HasPrefix(lower[at:], name) {
			continue
		}
		end := at + len(name)
		end += skip(lower[end:], " "+quotes)
		if end < len(lower) && (lower[end] == ':' || lower[end] == '=') {
			return end + 1
		}
	}
	return 0
}
