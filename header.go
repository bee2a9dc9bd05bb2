package hyper

import (
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"gohyper.dev/hyper/internal/syntax"
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
		if syntax.EqualFold(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether a field of that name is present.
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

// Del removes every field of that name.
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

// Clone returns a copy that shares nothing that can change.
func (h Header) Clone() Header { return append(Header(nil), h...) }

// HTTP returns the fields as net/http keeps them: canonical names, values in order per name, crumbs of
// Cookie joined (RFC 9113 §8.2.3). Pseudo-header fields are left out; the order between names is lost.
func (h Header) HTTP() http.Header {
	out := make(http.Header, len(h))
	first := make([]string, 0, len(h)) // most names have one value: they share an array
	var cookies []string               // where there are two or more: joined at the end, as joining each would copy all before it
	for i, f := range h {
		if syntax.IsPseudo(f.Name) {
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
			h.Add(syntax.Lower(name), value)
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

// checkField judges a field that the caller wants to send; name is in lower case. RFC 9110 §5.5 is applied
// in full: what a careless recipient could read as two fields is never sent.
func checkField(name, value string) error {
	switch {
	case !syntax.IsToken(name):
		return &RequestError{name, "is an invalid header field name: " + syntax.TokenFault(name)}
	case syntax.IsConnectionSpecific(name):
		return &RequestError{name, "is specific to a connection and has no place in HTTP/2 (RFC 9113 §8.2.2)"}
	case name == "te" && syntax.Lower(value) != "trailers":
		return badValue(name, value, `may only be "trailers" in HTTP/2 (RFC 9113 §8.2.2)`)
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; syntax.IsControl(c) {
			return &RequestError{name, fmt.Sprintf("has an invalid header field value: %s at octet %d of %d", syntax.ByteFault(c), i+1, len(value))}
		}
	}
	if value != "" && (syntax.IsBlank(value[0]) || syntax.IsBlank(value[len(value)-1])) {
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

// badAuthority makes the error of what is not host or host:port. It does not quote userinfo, which
// may have a password.
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

// hasTE reports whether a section has the field te. RFC 9113 §8.2.2 allows it in a request alone:
// in a response or its trailers it is malformed.
func hasTE(fields []Field) bool {
	return slices.ContainsFunc(fields, func(f Field) bool { return f.Name == "te" })
}

const teInResponse = "the field te, which is a request's"
