package syntax

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// EqualFold reports whether a and b are equal under ASCII case folding. It is faster than
// strings.EqualFold where the texts are in lower case already, or differ in length.
func EqualFold(a, b string) bool {
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

// Lower returns s with its ASCII letters in lower case. It allocates only if s has upper case.
func Lower(s string) string {
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

// ByteFault describes a byte that is not allowed where it is.
func ByteFault(c byte) string {
	switch {
	case c == ' ':
		return "a space"
	case c < ' ' || c == 0x7f:
		return fmt.Sprintf("a control character, %q", c)
	case c >= 0x80:
		return "a character that is not ASCII"
	case c == '#':
		return "a fragment, which stays with the client"
	}
	return fmt.Sprintf("a %q", c)
}

// IsBlank reports whether c is a space or a tab.
func IsBlank(c byte) bool { return c == ' ' || c == '\t' }

// TrimBlanks returns s without spaces and tabs at both ends.
func TrimBlanks(s string) string {
	if s == "" || !IsBlank(s[0]) && !IsBlank(s[len(s)-1]) {
		return s
	}
	return strings.Trim(s, " \t")
}

// HasControl reports whether a field value has a byte for which IsControl is true.
func HasControl(value string) bool {
	if len(value) < 8 {
		return hasControl(value)
	}
	last := value[len(value)-8:]
	for ; len(value) > 8; value = value[8:] {
		if mayHaveControl(value) && hasControl(value[:8]) {
			return true
		}
	}
	return mayHaveControl(last) && hasControl(last)
}

// hasControl is HasControl for a short value.
func hasControl(value string) bool {
	for i := 0; i < len(value); i++ {
		if IsControl(value[i]) {
			return true
		}
	}
	return false
}

// mayHaveControl reports whether the first 8 bytes of s have one below 0x20, or 0x7f.
func mayHaveControl(s string) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	s = s[:8] // one check for all of them
	x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	// If no byte is below 0x20, no subtraction borrows from the next byte.
	y := x ^ 0x7f*ones
	return ((x-0x20*ones)&^x|(y-ones)&^y)&high != 0
}

// IsControl reports whether c is a byte that RFC 9110 §5.5 does not allow in a field value: a
// control character other than the horizontal tab.
func IsControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// Printable returns text of the peer in a form that is safe to print: Escape's, with at most the
// first 64 bytes of s.
func Printable(s string) string {
	const most = 64
	if len(s) <= most {
		return Escape(s)
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return Escape(s[:end]) + "…"
}

// Escape returns s with everything that a terminal or a reader could take for something else
// written as in a Go string literal: control characters of ASCII and of Unicode (U+0080 to U+009F),
// marks that change the direction of the text, other invisible characters, and invalid UTF-8.
func Escape(s string) string {
	shows := func(r rune, size int) bool {
		return strconv.IsPrint(r) && (r != utf8.RuneError || size > 1)
	}
	clean := 0 // bytes at the beginning that stay as they are
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

// IsASCII reports whether s has no byte above 0x7f.
func IsASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
