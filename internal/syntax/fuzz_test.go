package syntax

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// FuzzText compares the functions with plain ones that follow the RFCs' grammar, and with each
// other.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "content-type", "X-A", "a b", "a\tb", "12", "example.com:443",
		"[::1%eth0]:80",
		"https", "/p?q", "*", "a=1; ; b=2", "a, b,,c", "\x7f\x80"} {
		f.Add(s, "K=v")
	}
	const tchar = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	f.Fuzz(func(t *testing.T, s, other string) {
		same := func(function string, got, want any) {
			t.Helper()
			if got != want {
				t.Errorf("%s(%q) = %v, want %v", function, s, got, want)
			}
		}
		outside := func(chars string) bool {
			return strings.ContainsFunc(s, func(r rune) bool {
				return r > 0x7f ||
					!strings.ContainsRune(chars, r)
			})
		}
		token := s != "" && !outside(tchar)
		same("IsToken", IsToken(s), token)
		if !token {
			same("TokenFault", TokenFault(s) != "", true)
		}
		control := slices.ContainsFunc([]byte(s), func(c byte) bool {
			return c < ' ' && c != '\t' ||
				c == 0x7f
		})
		same("HasControl", HasControl(s), control)
		same("IsMalformedValue", IsMalformedValue(s), control || strings.Trim(s, " \t") != s)
		lower := strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				return r + 'a' - 'A'
			}
			return r
		}, s)
		if !strings.ContainsRune(lower, '\ufffd') { // Map replaces what is not UTF-8
			same("Lower", Lower(s), lower)
			same("EqualFold", EqualFold(s, lower), true)
		}
		same("EqualFold", EqualFold(s, other), Lower(s) == Lower(other))
		field := token && Lower(s) == s && !IsConnectionSpecific(s) && !IsMalformedValue(other)
		same("FieldFault", FieldFault(s, other) == "", field)
		n, err := strconv.ParseInt(s, 10, 64)
		digits := err == nil && !outside("0123456789") && len(s) <= len("9223372036854775807")
		got, ok := ParseLength(s)
		same("ParseLength", ok, digits)
		if ok {
			same("ParseLength", got, n)
		}
	})
}

// FuzzTarget tests the parts of a request's target.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"example.com", "example.com:443", "[::1%eth0]:80", "a:0", "/p?q", "/a#b", "*",
		"h2c+x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if IsAuthority(s) != (AuthorityFault(s) == "") {
			t.Errorf("IsAuthority(%q) = %v, and its fault is %q", s, IsAuthority(s), AuthorityFault(s))
		}
		if IsAuthority(s) && (!IsVisible(s) || strings.ContainsAny(s, "/?#@")) {
			t.Errorf("%q is an authority", s)
		}
		if HasPort(s) {
			host, port := SplitAuthority(s, "https")
			if h, p, err := net.SplitHostPort(s); err != nil || h != host || p != port {
				t.Errorf("SplitAuthority(%q) = %q, %q, want %q, %q (%v)", s, host, port, h, p, err)
			}
		}
		without := WithoutZone(s)
		if strings.Count(s, "[") <= 1 && HasPort(s) != HasPort(without) || len(without) > len(s) {
			t.Errorf("%q without its zone is %q", s, without)
		}
		if IsPath(s, "GET") && !IsPath(s, "OPTIONS") {
			t.Errorf("%q is a path for GET and not for OPTIONS", s)
		}
		if !IsPath(s, "GET") && PathFault(s) == "" {
			t.Errorf("%q is not a path, without a reason", s)
		}
		if IsScheme(s) && (!IsVisible(s) || strings.ContainsAny(s, ":/")) {
			t.Errorf("%q is a scheme", s)
		}
	})
}

// FuzzLists tests the two lists: they lose no element, and stop at their bounds.
func FuzzLists(f *testing.F) {
	f.Add("a=1; ; b=2;", "x")
	f.Add("gzip, br ,,", "deflate")
	f.Fuzz(func(t *testing.T, a, b string) {
		var want, pairs []string
		for pair := range strings.SplitSeq(a, ";") {
			if pair = strings.Trim(pair, " \t"); pair != "" {
				want = append(want, pair)
			}
		}
		for pair, rest := CutCookie(a); pair != ""; pair, rest = CutCookie(rest) {
			pairs = append(pairs, pair)
		}
		if !slices.Equal(pairs, want) {
			t.Errorf("the pairs of %q are %q, want %q", a, pairs, want)
		}
		var elements, all []string
		for _, value := range []string{a, b} {
			for element := range strings.SplitSeq(value, ",") {
				all = append(all, strings.Trim(element, " \t"))
			}
		}
		whole := true
		for element, ok := range ListElements(slices.Values([]string{a, b})) {
			if whole = ok; ok {
				elements = append(elements, element)
			}
		}
		within := len(a)+len(b) <= MaxListSize && len(all) <= MaxListElements
		if whole != within || within && !slices.Equal(elements, all) ||
			!slices.Equal(elements, all[:len(elements)]) {
			t.Errorf("the elements of %q, %q are %q (%v), want %q (%v)", a, b, elements, whole, all, within)
		}
	})
}
