package hyper

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// Each byte in each place of a request is either sent unchanged or refused, as the grammar of that
// place says.
func TestEachByteInEachPlaceOfRequest(t *testing.T) {
	const (
		alpha  = "abcdefghijklmnopqrstuvwxyz"
		upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		digits = "0123456789"
		token  = alpha + upper + digits + "!#$%&'*+-.^_`|~" // RFC 9110 §5.6.2
	)
	visible := func(but string) (s []byte) {
		for c := byte(0x21); c < 0x7f; c++ {
			if !strings.ContainsRune(but, rune(c)) {
				s = append(s, c)
			}
		}
		return s
	}
	values := visible("") // RFC 9110 §5.5: visible characters, obs-text, and blanks in between
	values = append(values, ' ', '\t')
	for c := 0x80; c <= 0xff; c++ {
		values = append(values, byte(c))
	}
	tests := []struct {
		place string
		good  []byte
		req   func(s string) Request
	}{
		{"field name", []byte(token), func(s string) Request {
			return Request{Header: Header{{Name: "x" + s +
				"x", Value: "1"}}}
		}},
		{"field value", values, func(s string) Request {
			return Request{Header: Header{{Name: "x",
				Value: "x" + s + "x"}}}
		}},
		{"trailer name", []byte(token), func(s string) Request {
			return Request{Trailer: Header{{Name: "x" +
				s + "x", Value: "1"}}}
		}},
		{"trailer value", values, func(s string) Request {
			return Request{Trailer: Header{{Name: "x",
				Value: "x" + s + "x"}}}
		}},
		{"method", []byte(token), func(s string) Request { return Request{Method: "X" + s + "X"} }},
		{"path", visible("#"), func(s string) Request { return Request{Path: "/x" + s + "x"} }},
		{"authority", visible("/?#@\\\"<>^`{|}"), func(s string) Request {
			return Request{Authority: "x" + s +
				"x"}
		}},
		{"scheme", []byte(alpha + upper + digits + "+-."),
			func(s string) Request { return Request{Scheme: "x" + s + "x"} }},
		{"protocol", []byte(token), func(s string) Request {
			return Request{Method: "CONNECT",
				Protocol: "x" + s + "x"}
		}},
	}
	c := &Conn{
		cfg: Config{Scheme: "http", Authority: "example.com"},
	}
	for _, test := range tests {
		for octet := range 256 {
			req := test.req(string([]byte{byte(octet)}))
			err := new(preparedRequest).prepare(t.Context(), c, opening{req: &req})
			var re *RequestError
			switch good := slices.Contains(test.good, byte(octet)); {
			case good && err != nil:
				t.Errorf("%#02x in a %s: %v", octet, test.place, err)
			case !good && !errors.As(err, &re):
				t.Errorf("%#02x in a %s: %v, want a RequestError", octet, test.place, err)
			}
		}
	}
}
