package hyper

import (
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Field is one line of a field section. On the wire names are lower case; a name is sent so however
// it is written here.
type Field struct {
	Name  string
	Value string

	// Sensitive fields are never put into a compression table, here or by any intermediary
	// (RFC 7541 §7.1.3). Authorization, proxy-authorization and short cookies are sent so without being asked.
	Sensitive bool
}

// size is what RFC 9113 §6.5.2 counts for a field in MAX_HEADER_LIST_SIZE.
func (f Field) size() int { return len(f.Name) + len(f.Value) + 32 }

// A Header is a field section in the order of the wire, duplicates and all. The zero value is empty and ready;
// a literal is a Header too. Names are compared without regard to case. It is not safe for concurrent change.
//
// In a Request it may begin with pseudo-header fields (":method", …): they are sent in the order they have there,
// before those that the Request's own fields supply.
type Header []Field

// listSize is what RFC 9113 §6.5.2 counts for h.
func (h Header) listSize() (n int) {
	for i := range h {
		n += h[i].size()
	}
	return n
}

// Get returns the first value of name, or "".
func (h Header) Get(name string) string {
	for i := range h {
		if equalFold(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether a field of that name is present.
func (h Header) Has(name string) bool {
	for i := range h {
		if equalFold(h[i].Name, name) {
			return true
		}
	}
	return false
}

// Values yields every value of name, in order.
func (h Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h {
			if equalFold(h[i].Name, name) && !yield(h[i].Value) {
				return
			}
		}
	}
}

// All yields every field's name and value, in order.
func (h Header) All() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for i := range h {
			if !yield(h[i].Name, h[i].Value) {
				return
			}
		}
	}
}

// Add appends a field.
func (h *Header) Add(name, value string) { *h = append(*h, Field{Name: name, Value: value}) }

// AddSensitive appends a field that no compression table may keep.
func (h *Header) AddSensitive(name, value string) {
	*h = append(*h, Field{Name: name, Value: value, Sensitive: true})
}

// Set puts value in the place of the first field of that name and removes the others; it appends where
// there is none.
func (h *Header) Set(name, value string) {
	kept, found := (*h)[:0], false
	for _, f := range *h {
		if equalFold(f.Name, name) {
			if found {
				continue
			}
			found, f.Value = true, value
		}
		kept = append(kept, f)
	}
	clear((*h)[len(kept):])
	if !found {
		kept = append(kept, Field{Name: name, Value: value})
	}
	*h = kept
}

// Del removes every field of that name.
func (h *Header) Del(name string) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !equalFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	clear((*h)[len(kept):])
	*h = kept
}

// Clone returns a copy that shares nothing that can change.
func (h Header) Clone() Header { return append(Header(nil), h...) }

// HTTP returns the fields as net/http keeps them: canonical names, values in order per name, crumbs of
// Cookie joined (RFC 9113 §8.2.3). Pseudo-header fields are left out; the order between names is lost.
func (h Header) HTTP() http.Header {
	out := make(http.Header, len(h))
	first := make([]string, 0, len(h)) // most names have one value: they share an array
	var cookies []string               // where there are two or more: joined at the end, as joining each would copy all before it
	for i, f := range h {
		if isPseudo(f.Name) {
			continue
		}
		key := canonicalName(f.Name)
		var values []string
		if h[:i].mayHave(f.Name) {
			values = out[key]
		}
		switch {
		case values == nil:
			first = append(first, f.Value)
			out[key] = first[len(first)-1 : len(first) : len(first)]
		case key == "Cookie":
			if cookies == nil {
				cookies = values
			}
			cookies = append(cookies, f.Value)
		default:
			out[key] = append(values, f.Value)
		}
	}
	if cookies != nil {
		out["Cookie"][0] = strings.Join(cookies, "; ")
	}
	return out
}

// mayHave is Has, or true where it would take longer than to look the name up in a map.
func (h Header) mayHave(name string) bool { return len(h) > 16 || h.Has(name) }

// HeaderFromHTTP returns the fields of src with lower-case names, sorted by name because a map has no order.
func HeaderFromHTTP(src http.Header) Header {
	h := make(Header, 0, len(src))
	for _, name := range sortedKeys(src) {
		for _, value := range src[name] {
			h.Add(lower(name), value)
		}
	}
	return h
}

func sortedKeys(src http.Header) []string {
	keys := make([]string, 0, len(src))
	for key := range src {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func isPseudo(name string) bool { return len(name) > 0 && name[0] == ':' }

// equalFold compares ASCII names. Most are lower case already and of the same length or not equal at all.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if a[i] != b[i] && lowerByte(a[i]) != lowerByte(b[i]) {
			return false
		}
	}
	return true
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// lower returns s with its ASCII letters in lower case; it allocates only where that changes something.
func lower(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			// Not strings.ToLower: it turns the Kelvin sign into the letter k.
			b := []byte(s)
			for ; i < len(b); i++ {
				b[i] = lowerByte(b[i])
			}
			return string(b)
		}
	}
	return s
}

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

func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return s != ""
}

const (
	// maxListElements and maxListSize bound what is read of a field that is a list (RFC 9110
	// §5.6.1): the peer can repeat a long value for an octet each, by way of the compression table.
	maxListElements = 32
	maxListSize     = 1024 // octets of all values
)

// listElements yields the elements of a field's values, without the blanks around them; empty
// elements count. In place of what goes beyond the bounds it yields false, once.
func listElements(values iter.Seq[string]) iter.Seq2[string, bool] {
	return func(yield func(string, bool) bool) {
		count, size := 0, 0
		for value := range values {
			if size += len(value); size > maxListSize {
				yield("", false)
				return
			}
			for element := range strings.SplitSeq(value, ",") {
				if count++; count > maxListElements {
					yield("", false)
					return
				}
				if !yield(strings.Trim(element, " \t"), true) {
					return
				}
			}
		}
	}
}

// isConnectionSpecific reports the fields that RFC 9113 §8.2.2 bans from both directions.
func isConnectionSpecific(name string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// checkField judges a field that the caller wants to send; name is in lower case. RFC 9110 §5.5 is applied
// in full: what a careless recipient could read as two fields is never sent.
func checkField(name, value string) error {
	switch {
	case !isToken(name):
		return &RequestError{name, "is an invalid header field name: " + badToken(name)}
	case isConnectionSpecific(name):
		return &RequestError{name, "is specific to a connection and has no place in HTTP/2 (RFC 9113 §8.2.2)"}
	case name == "te" && lower(value) != "trailers":
		return badValue(name, value, `may only be "trailers" in HTTP/2 (RFC 9113 §8.2.2)`)
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; isControl(c) {
			return &RequestError{name, fmt.Sprintf("has an invalid header field value: %s at octet %d of %d", badOctet(c), i+1, len(value))}
		}
	}
	if value != "" && (isBlank(value[0]) || isBlank(value[len(value)-1])) {
		return &RequestError{name, "has an invalid header field value: a blank at its beginning or end"}
	}
	return nil
}

// badValue makes the error of a field that has the wrong value, and quotes it. It is not for fields
// that may hold a secret: errors are logged, and a token with the newline of the file that it came
// from is the commonest of bad values.
func badValue(name, value, reason string) *RequestError {
	return &RequestError{name, quoted(value) + " " + reason}
}

// badToken says why s is no token.
func badToken(s string) string {
	for i := 0; i < len(s); i++ {
		if !tokenChars[s[i]] {
			return "it has " + badOctet(s[i])
		}
	}
	return "it is empty"
}

// badAuthority makes the error of what is not host or host:port. It does not quote userinfo, which
// may have a password.
func badAuthority(s string) *RequestError {
	const name = ":authority"
	if strings.Contains(s, "@") {
		return &RequestError{name, "has userinfo, which must not be sent (RFC 9113 §8.3.1)"}
	}
	for i := 0; i < len(s); i++ {
		if !authorityChars[s[i]] {
			return badValue(name, s, "is not host or host:port in ASCII: it has "+badOctet(s[i]))
		}
	}
	return &RequestError{name, "is empty: there is no host"}
}

// badPath says why s is no :path of a request.
func badPath(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '#' {
			return "has " + badOctet(s[i])
		}
	}
	if s == "*" {
		return "is for OPTIONS alone"
	}
	return "does not begin with /"
}

// badOctet names an octet that is out of place.
func badOctet(c byte) string {
	switch {
	case c == ' ':
		return "a blank"
	case c < ' ' || c == 0x7f:
		return fmt.Sprintf("a control character, %q", c)
	case c >= 0x80:
		return "a character that is not ASCII"
	case c == '#':
		return "a fragment, which stays with the client"
	}
	return fmt.Sprintf("a %q", c)
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// malformedField says what is wrong with a regular field that the peer sent, or "". RFC 9113
// §8.2.1: names have no upper case, no octet outside 0x21–0x7e and no colon after the first; values
// have no NUL, CR or LF and no blank at either end. RFC 9110 §5.5 calls the other control
// characters invalid; they are refused too, as net/http refuses them.
func malformedField(name, value string) string {
	if name == "" {
		return "a field without a name"
	}
	for i := 0; i < len(name); i++ {
		if !tokenChars[name[i]] || 'A' <= name[i] && name[i] <= 'Z' {
			return "the field name " + printable(name)
		}
	}
	if isConnectionSpecific(name) {
		return "the connection-specific field " + name
	}
	if malformedValue(value) {
		return "the value of " + name
	}
	return ""
}

// hasTE reports whether a section has the field te. RFC 9113 §8.2.2 allows it in a request alone:
// in a response or its trailers it is malformed.
func hasTE(fields []Field) bool {
	return slices.ContainsFunc(fields, func(f Field) bool { return f.Name == "te" })
}

const teInResponse = "the field te, which is a request's"

func malformedValue(value string) bool {
	return hasControl(value) || value != "" && (isBlank(value[0]) || isBlank(value[len(value)-1]))
}

// hasControl reports whether a field value has a control character.
func hasControl(value string) bool {
	for i := 0; i < len(value); i++ {
		if isControl(value[i]) {
			return true
		}
	}
	return false
}

// isControl reports whether c is an octet that RFC 9110 §5.5 does not allow in a field value: a
// control character other than the horizontal tab.
func isControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// printable makes text of the peer fit to be shown to people. What is beyond 64 octets is cut off.
// See escape.
func printable(s string) string {
	const most = 64
	if len(s) <= most {
		return escape(s)
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return escape(s[:end]) + "…"
}

// escape writes what a terminal, or a reader, could take for something else as Go would in a string
// literal: control characters of ASCII and of Unicode (U+0080 to U+009F), marks that change the
// direction of the text around them, everything else that does not show, and what is not UTF-8.
func escape(s string) string {
	shows := func(r rune, size int) bool { return strconv.IsPrint(r) && (r != utf8.RuneError || size > 1) }
	clean := 0 // octets at the beginning that stay as they are
	for clean < len(s) {
		r, size := utf8.DecodeRuneInString(s[clean:])
		if !shows(r, size) {
			break
		}
		clean += size
	}
	if clean == len(s) {
		return s
	}
	b := append(make([]byte, 0, len(s)+16), s[:clean]...)
	for i := clean; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if shows(r, size) {
			b = append(b, s[i:i+size]...)
		} else {
			quoted := strconv.Quote(s[i : i+size])
			b = append(b, quoted[1:len(quoted)-1]...)
		}
		i += size
	}
	return string(b)
}
