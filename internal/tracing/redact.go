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
	switch syntax.Lower(name) {
	case "authorization", "proxy-authorization", "cookie", "set-cookie":
		return true
	}
	return false
}

// markers are the words, in lower case, after which text may contain a credential.
var markers = []string{
	"authorization:", "authorization=", "cookie:", "bearer ", "basic ", "token=", "token:", "password=",
	"password:", "passwd=", "secret=", "secret:", "api_key=", "apikey=", "api-key:", "session=",
	"sessionid=", "access_key=",
}

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
		from := end
		for from < len(text) && (text[from] == ' ' || text[from] == '"') {
			from++
		}
		// A scheme such as "Bearer" after "authorization:" is shown, and what follows it is not.
		if next := secretAt(lower, from); next > 0 {
			at = from
			continue
		}
		to := from
		for to < len(text) && !strings.ContainsRune(" \t\r\n\"',;&", rune(text[to])) {
			to++
		}
		if to > from {
			b.WriteString(text[done:from])
			b.WriteString("[" + strconv.Itoa(to-from) + " bytes]")
			done = to
		}
		at = max(to, end)
	}
	if done == 0 {
		return text
	}
	return b.String() + text[done:]
}

// secretAt returns where the marker that begins at the index at ends, or 0 if none begins there.
func secretAt(lower string, at int) int {
	for _, m := range markers {
		if strings.HasPrefix(lower[at:], m) {
			return at + len(m)
		}
	}
	return 0
}
