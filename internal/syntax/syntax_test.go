package syntax

import (
	"slices"
	"strings"
	"testing"
)

// judge calls f with each text of want.
func judge[T comparable](t *testing.T, name string, f func(string) T, want map[string]T) {
	t.Helper()
	for s, want := range want {
		if got := f(s); got != want {
			t.Errorf("%s(%q) = %v, want %v", name, s, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	judge(t, "IsPseudo", IsPseudo, map[string]bool{"": false, ":": true, ":path": true, "path": false})
	judge(t, "IsToken", IsToken, map[string]bool{"": false, "a": true, "X-Y_z1!": true, "a b": false,
		"a:": false, "é": false, "\x00": false})
	judge(t, "TokenFault", TokenFault, map[string]string{
		"": "it is empty", "a b": "it has a space", "a\n": `it has a control character, '\n'`,
		"é": "it has a character that is not ASCII", "a#b c": "it has a space", "a(": "it has a '('",
		"\x7f": `it has a control character, '\x7f'`,
	})
	for _, name := range []string{"connection", "proxy-connection", "keep-alive", "transfer-encoding",
		"upgrade"} {
		if !IsConnectionSpecific(name) || IsConnectionSpecific(name+"s") {
			t.Errorf("IsConnectionSpecific is wrong about %q", name)
		}
	}
}

func TestFields(t *testing.T) {
	for _, c := range [][3]string{
		{"", "v", "a field without a name"},
		{"Name", "v", "the field name Name"},
		{"na me", "v", "the field name na me"},
		{"na\x00", "v", `the field name na\x00`},
		{"upgrade", "v", "the connection-specific field upgrade"},
		{"name", "a\nb", "the value of name"},
		{"name", " v", "the value of name"},
		{"name", "v\t", "the value of name"},
		{"name", "v\x7f", "the value of name"},
		{"name", "", ""},
		{"name", "a\tb \x80", ""},
	} {
		if got := FieldFault(c[0], c[1]); got != c[2] {
			t.Errorf("FieldFault(%q, %q) = %q, want %q", c[0], c[1], got, c[2])
		}
	}
	for s, want := range map[string]int64{
		"0": 0, "007": 7, "9223372036854775807": 1<<63 - 1,
		"": -1, "+1": -1, "-1": -1, "1,1": -1, " 1": -1, "9223372036854775808": -1,
		"00000000000000000001": -1,
	} {
		if got, ok := ParseLength(s); ok != (want >= 0) || ok && got != want {
			t.Errorf("ParseLength(%q) = %d, %v", s, got, ok)
		}
	}
}

func TestLists(t *testing.T) {
	elements := func(values ...string) (list []string) {
		for e, ok := range ListElements(slices.Values(values)) {
			if !ok {
				e = "beyond"
			}
			list = append(list, e)
		}
		return list
	}
	for _, c := range []struct{ values, want []string }{
		{nil, nil},
		{[]string{""}, []string{""}},
		{[]string{"a, b\t", ",c"}, []string{"a", "b", "", "c"}},
		{[]string{strings.Repeat("x", MaxListSize), "y"},
			[]string{strings.Repeat("x", MaxListSize), "beyond"}},
	} {
		if got := elements(c.values...); !slices.Equal(got, c.want) {
			t.Errorf("elements of %q: %q, want %q", c.values, got, c.want)
		}
	}
	most := elements(strings.Repeat(",", MaxListElements-1))
	if len(most) != MaxListElements || slices.Contains(most, "beyond") {
		t.Errorf("the longest list: %q", most)
	}
	if got := elements(strings.Repeat(",", MaxListElements)); len(got) != MaxListElements+1 ||
		got[MaxListElements] != "beyond" {
		t.Errorf("a list that is too long: %q", got)
	}
	for e := range ListElements(slices.Values([]string{"a,b"})) {
		if e != "a" {
			t.Errorf("%q after break", e)
		}
		break
	}
	var pairs []string
	for pair, rest := CutCookie(" a=1;;  b=2 ;\t; c=3"); pair != ""; pair, rest = CutCookie(rest) {
		pairs = append(pairs, pair)
	}
	if want := []string{"a=1", "b=2", "c=3"}; !slices.Equal(pairs, want) {
		t.Errorf("pairs of a cookie: %q, want %q", pairs, want)
	}
}

func TestAuthorities(t *testing.T) {
	judge(t, "IsAuthority", IsAuthority, map[string]bool{
		"": false, "a": true, "a:1": true, "[::1]:2": true, "u@h": false, "a/b": false, "a b": false,
		"é": false, "a%b": true,
	})
	judge(t, "AuthorityFault", AuthorityFault, map[string]string{
		"": "it is empty", "a:1": "", "a b": "it has a space", "a/": "it has a '/'",
		"a#": "it has a fragment, which stays with the client",
	})
	judge(t, "HasPort", HasPort, map[string]bool{
		"": false, "a": false, "a:1": true, "a:65535": true, "a:65536": false, "a:0": false, "a:": false,
		"[::1]": false, "[::1]:9": true,
	})
	judge(t, "WithoutZone", WithoutZone, map[string]string{
		"": "", "a": "a", "[fe80::1%eth0]": "[fe80::1]", "[fe80::1%eth0]:1": "[fe80::1]:1", "a%b": "a%b",
		"a%b]": "a%b]", "[a]%b": "[a]%b",
	})
	for _, c := range [][4]string{
		{"a:1", "https", "a", "1"}, {"a", "https", "a", "443"}, {"a", "http", "a", "80"},
		{"[::1]", "https", "::1", "443"}, {"[::1]:2", "http", "::1", "2"},
		{"a:", "https", "a", "443"},
	} {
		if host, port := SplitAuthority(c[0], c[1]); host != c[2] || port != c[3] {
			t.Errorf("SplitAuthority(%q, %q) = %q, %q", c[0], c[1], host, port)
		}
	}
}

func TestPathsAndSchemes(t *testing.T) {
	judge(t, "IsPath", func(s string) bool { return IsPath(s, "GET") }, map[string]bool{
		"": false, "/": true, "/a?b": true, "/a b": false, "/a#b": false, "a": false, "*": false,
		"/é": false,
	})
	if !IsPath("*", "OPTIONS") || IsPath("**", "OPTIONS") {
		t.Error("OPTIONS *")
	}
	judge(t, "PathFault", PathFault, map[string]string{
		"a": "does not begin with /", "*": "is only for OPTIONS", "/ ": "has a space",
		"/\x7f": `has a control character, '\x7f'`,
		"/#":    "has a fragment, which stays with the client", "": "does not begin with /",
	})
	judge(t, "IsScheme", IsScheme, map[string]bool{
		"": false, "http": true, "HTTPS": true, "a+b-c.1": true, "1a": false, "+": false, "a:": false,
		"é": false,
	})
}

func TestTexts(t *testing.T) {
	for _, c := range [][2]string{{"", ""}, {"abc", "ABC"}, {"x-y", "X-Y"}, {"\x40", "\x40"}} {
		if !EqualFold(c[0], c[1]) || !EqualFold(c[1], c[0]) || Lower(c[1]) != c[0] {
			t.Errorf("%q and %q", c[0], c[1])
		}
	}
	for _, c := range [][2]string{{"a", "b"}, {"a", "aa"}, {"@", "`"}, {"k", "\u212a"}, {"[", "{"}} {
		if EqualFold(c[0], c[1]) {
			t.Errorf("%q equals %q", c[0], c[1])
		}
	}
	if got := Lower("x\u212aY"); got != "x\u212ay" {
		t.Errorf("Lower = %q", got)
	}
	if n := testing.AllocsPerRun(10, func() { Lower("content-type") }); n != 0 {
		t.Errorf("Lower of lower case: %v allocations", n)
	}
	judge(t, "IsASCII", IsASCII, map[string]bool{"": true, "a\x7f": true, "a\x80": false})
	judge(t, "Escape", Escape, map[string]string{
		"": "", "plain é 世": "plain é 世", "a\nb": `a\nb`, "\x1b[31m": `\x1b[31m`,
		"a\u202eb": `a\u202eb`,
		"\xff":     `\xff`, "\ufffd": "\ufffd", "\u0085": `\u0085`,
	})
	judge(t, "Printable", Printable, map[string]string{
		"a\x00":                             `a\x00`,
		strings.Repeat("x", 64):             strings.Repeat("x", 64),
		strings.Repeat("x", 65):             strings.Repeat("x", 64) + "…",
		strings.Repeat("x", 63) + "é" + "y": strings.Repeat("x", 63) + "…",
	})
}

// HasControl looks at eight bytes at once.
func TestHasControlFindsEachByteAnywhere(t *testing.T) {
	for n := range 40 {
		for at := range n {
			for c := range 256 {
				p := []byte(strings.Repeat("v", n))
				p[at] = byte(c)
				if got, want := HasControl(string(p)), IsControl(byte(c)); got != want {
					t.Fatalf("%q: %v, want %v", p, got, want)
				}
			}
		}
		if HasControl(strings.Repeat("\xff\t", n)) {
			t.Fatalf("%d bytes: bytes above 0x7f and tabs are controls", n)
		}
	}
}

func TestTrimBlanks(t *testing.T) {
	for _, s := range []string{"", " ", "\t \t", "a", " a", "a\t", " a b ", "a b", "\na\n"} {
		if got, want := TrimBlanks(s), strings.Trim(s, " \t"); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
