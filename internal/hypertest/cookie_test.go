package hypertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// cookies are Cookie fields and how they are sent. RFC 9113 §8.2.1: a field value MUST NOT start or
// end with a space or tab. RFC 9113 §8.2.3 allows one field for each cookie-pair of a Cookie field,
// so the rule applies to each pair.
var cookies = []struct {
	reason string
	values []string // the values of the request's Cookie fields
	want   []string // the values of the cookie fields that are sent
}{
	{"pairs as RFC 6265 writes them", []string{"a=1; b=2"}, []string{"a=1", "b=2"}},
	{"two blanks", []string{"a=1;  b=2"}, []string{"a=1", "b=2"}},
	{"a blank before the semicolon", []string{"a=1 ; b=2"}, []string{"a=1", "b=2"}},
	{"a tab after the blank", []string{"a=1; \tb=2"}, []string{"a=1", "b=2"}},
	{"a tab before the semicolon", []string{"a=1\t; b=2"}, []string{"a=1", "b=2"}},
	{"no blank", []string{"a=1;b=2"}, []string{"a=1", "b=2"}},
	{"a semicolon at the end", []string{"a=1;"}, []string{"a=1"}},
	{"a semicolon at the beginning", []string{"; a=1"}, []string{"a=1"}},
	{"nothing between semicolons", []string{"a=1;; ;\t; b=2"}, []string{"a=1", "b=2"}},
	{"a blank within a pair", []string{"a=1 2; b = 2"}, []string{"a=1 2", "b = 2"}},
	{"an empty value", []string{""}, nil},
	{"only semicolons", []string{"; ;"}, nil},
	{"several fields", []string{"a=1 ; b=2", ";", "c=3;d=4"}, []string{"a=1", "b=2", "c=3", "d=4"}},
}

// cookiesOf returns the values of the cookie fields of h.
func cookiesOf(h h2test.Headers) (values []string) {
	for _, f := range h.Fields {
		if f.Name == "cookie" {
			values = append(values, f.Value)
		}
	}
	return values
}

// listSize returns the size of a field section as RFC 9113 §6.5.2 defines it.
func listSize(h h2test.Headers) (n uint32) {
	for _, f := range h.Fields {
		n += f.Size()
	}
	return n
}

func TestEachCookiePairIsAFieldWithoutBlanksAround(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		var peer *accepted
		for i, test := range cookies {
			id := uint32(2*i + 1)
			req := v.request("GET", "/", nil)
			req.Header["Cookie"] = test.values
			call := v.send(req)
			if peer == nil {
				peer = v.accept()
				peer.Ignore(wire.Data)
			}
			if got := cookiesOf(peer.WantHeaders(test.reason, id)); !slices.Equal(got, test.want) {
				t.Errorf("%s: %q is sent as %q, want %q", test.reason, test.values, got, test.want)
			}
			peer.WriteHeaders(id, wire.EndStream, ":status: 204")
			call.Want(t, test.reason).Body.Close()
			synctest.Wait() // http.Transport pools the connection from now on
		}
	})
}

// The client compares the size of what it sends with the peer's MAX_HEADER_LIST_SIZE.
func TestSizeOfCookiesIsThatOfWhatIsSent(t *testing.T) {
	for _, test := range cookies {
		synctest.Test(t, func(t *testing.T) {
			peer, conn := dialPeer(t, nil)
			req := &hyper.Request{}
			for _, value := range test.values {
				req.Header.Add("Cookie", value)
			}
			for _, id := range []uint32{1, 3} {
				call := doAsync(context.Background(), conn, req)
				size := listSize(peer.WantHeaders(test.reason, id))
				peer.WriteHeaders(id, wire.EndStream, ":status: 204")
				call.Want(t, test.reason)

				limit := size
				if id == 3 {
					limit--
				}
				peer.WriteSettings(wire.Setting{ID: wire.SettingMaxHeaderListSize, Value: limit})
				peer.WantSettingsAck("the limit is known")
			}
			_, err := conn.Do(context.Background(), req)
			var re *hyper.RequestError
			if !errors.As(err, &re) {
				t.Errorf("%s: got %v, want a RequestError for an octet too many", test.reason, err)
			}
			peer.WantIdle(test.reason)
		})
	}
}

// Each pair of a sensitive Cookie field is sensitive. A long pair that is not sensitive may be
// indexed.
func TestCookiePairsOfASensitiveFieldAreSensitive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		long := strings.Repeat("x", 30)
		doAsync(context.Background(), conn, &hyper.Request{Header: hyper.Header{
			{Name: "cookie", Value: "a=" + long + " ;b=" + long, Sensitive: true},
			{Name: "cookie", Value: "c=" + long + ";  d=1"},
		}})
		got := map[string]bool{}
		for _, f := range peer.WantHeaders("the request", 1).Fields {
			if f.Name == "cookie" {
				got[f.Value[:1]] = f.Sensitive
			}
		}
		for name, want := range map[string]bool{"a": true, "b": true, "c": false, "d": true} {
			if got[name] != want {
				t.Errorf("pair %s is sensitive: %v, want %v", name, got[name], want)
			}
		}
	})
}
