package hyper

import (
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"gohyper.dev/hyper/internal/syntax"
)

// A Field is one line of a field section. Its Name may be in upper or lower case. It is sent in
// lower case, as HTTP/2 requires.
type Field struct {
	Name  string
	Value string

	// Sensitive says that the field must never be put into a compression table, neither by hyper
	// nor by an intermediary (RFC 7541 §7.1.3). Authorization, proxy-authorization and short
	// cookies are always sent in this way.
	Sensitive bool
}

// size returns the size of the field as RFC 9113 §6.5.2 counts it for MAX_HEADER_LIST_SIZE.
func (f Field) size() int { return len(f.Name) + len(f.Value) + 32 }

// A Header is a field section in the order in which it is sent or received, with duplicates. The
// zero value is an empty Header ready to use. A composite literal is a Header, too. Names are
// compared without regard to case. A Header must not be changed while another goroutine uses it.
//
// The Header of a Request may begin with pseudo-header fields (":method", …). They are sent in
// their order, before those that the Request's own fields supply.
type Header []Field

// listSize returns the size of h as RFC 9113 §6.5.2 counts it.
func (h Header) listSize() (n int) {
	for i := range h {
		n += h[i].size()
	}
	return n
}

// Get returns the first value of name, or "" if there is none.
func (h Header) Get(name string) string {
	for i := range h {
		if syntax.EqualFold(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether h has a field with the given name.
func (h Header) Has(name string) bool {
	for i := range h {
		if syntax.EqualFold(h[i].Name, name) {
			return true
		}
	}
	return false
}

// Values yields every value of name, in order.
func (h Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h {
			if syntax.EqualFold(h[i].Name, name) && !yield(h[i].Value) {
				return
			}
		}
	}
}

// All yields the name and value of every field, in order.
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

// AddSensitive appends a field with Sensitive set, so that it is never put into a compression
// table.
func (h *Header) AddSensitive(name, value string) {
	*h = append(*h, Field{Name: name, Value: value, Sensitive: true})
}

// Set gives the first field with the given name the value and removes the others with that name. If
// there is none, Set appends a field.
func (h *Header) Set(name, value string) {
	kept, found := (*h)[:0], false
	for _, f := range *h {
		if syntax.EqualFold(f.Name, name) {
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

// Del removes every field with the given name.
func (h *Header) Del(name string) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !syntax.EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	clear((*h)[len(kept):])
	*h = kept
}

// Clone returns a copy of h. Changes to one do not affect the other.
func (h Header) Clone() Header { return append(Header(nil), h...) }

// HTTP returns the fields in the form of net/http: names are canonical, the values of each name
// keep their order, and several Cookie fields are joined into one (RFC 9113 §8.2.3). Pseudo-header
// fields are left out. The order of different names is lost.
func (h Header) HTTP() http.Header { return h.toHTTP(nil) }

// toHTTP is HTTP. Most names have one value. All these values share one array: that of first, an
// empty slice, if it is large enough.
func (h Header) toHTTP(first []string) http.Header {
	out := make(http.Header, len(h))
	if cap(first) < len(h) {
		first = make([]string, 0, len(h))
	}
	for i := range h {
		f := &h[i]
		if syntax.IsPseudo(f.Name) {
			continue
		}
		first = append(first, f.Value)
		n := len(first)
		if out[canonicalName(f.Name)] = first[n-1 : n : n]; len(out) < n {
			clear(out)
			h.addRepeated(out, first[:0])
			break
		}
	}
	return out
}

// addRepeated is toHTTP for a Header in which names appear more than once. out is empty, and first
// is large enough.
func (h Header) addRepeated(out http.Header, first []string) {
	// The values of several Cookie fields are joined once at the end. To join them one at a time
	// would copy all earlier values each time.
	var cookies []string
	for _, f := range h {
		if syntax.IsPseudo(f.Name) {
			continue
		}
		key := canonicalName(f.Name)
		values := out[key]
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
}

// HeaderFromHTTP returns the fields of src with names in lower case. They are sorted by name,
// because a map has no order.
func HeaderFromHTTP(src http.Header) Header {
	h := make(Header, 0, len(src))
	for _, name := range sortedKeys(src) {
		for _, value := range src[name] {
			h.Add(syntax.Lower(name), value)
		}
	}
	return h
}

// sortedKeys returns the keys of src in sorted order.
func sortedKeys(src http.Header) []string {
	keys := make([]string, 0, len(src))
	for key := range src {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// checkField checks a field that the caller wants to send. name is in lower case. RFC 9110 §5.5 is
// applied in full: a value that a careless recipient could read as two fields is never sent.
func checkField(name, value string) error {
	switch {
	case !syntax.IsToken(name):
		return &RequestError{name, "is an invalid header field name: " + syntax.TokenFault(name)}
	case syntax.IsConnectionSpecific(name):
		return &RequestError{name,
			"is specific to a connection and has no place in HTTP/2 (RFC 9113 §8.2.2)"}
	case name == "te" && syntax.Lower(value) != "trailers":
		return badValue(name, value, `may only be "trailers" in HTTP/2 (RFC 9113 §8.2.2)`)
	}
	if syntax.HasControl(value) {
		return controlError(name, value)
	}
	if value != "" && (syntax.IsBlank(value[0]) || syntax.IsBlank(value[len(value)-1])) {
		return &RequestError{name,
			"has an invalid header field value: a space or tab at its beginning or end"}
	}
	return nil
}

// controlError returns the error for a value that has a control character.
func controlError(name, value string) error {
	at := 0
	for !syntax.IsControl(value[at]) {
		at++
	}
	return &RequestError{name, fmt.Sprintf("has an invalid header field value: %s at byte %d of %d",
		syntax.ByteFault(value[at]), at+1, len(value))}
}

// badValue returns the error for a field with an invalid value, and quotes the value. Do not use it
// for fields that may hold a secret, because errors are logged. A common invalid value is a token
// that still ends with the newline of the file from which it was read.
func badValue(name, value, reason string) *RequestError {
	return &RequestError{name, quoted(value) + " " + reason}
}

// badAuthority returns the error for an authority that is not host or host:port. It does not quote
// userinfo, which may contain a password.
func badAuthority(s string) *RequestError {
	const name = ":authority"
	if strings.Contains(s, "@") {
		return &RequestError{name, "has userinfo, which must not be sent (RFC 9113 §8.3.1)"}
	}
	if s == "" {
		return &RequestError{name, "is empty: there is no host"}
	}
	return badValue(name, s, "is not host or host:port in ASCII: "+syntax.AuthorityFault(s))
}
