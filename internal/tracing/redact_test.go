package tracing

import "testing"

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "",
		"too_many_pings":                         "too_many_pings",
		"bad Authorization: Bearer abc.def, end": "bad Authorization: Bearer [7 bytes], end",
		"token=abc&x=1 Cookie: id=1; b=2":        "token=[3 bytes]&x=1 Cookie: [4 bytes]; b=2",
		`password="s e"`:                         `password="[1 bytes] e"`,
		"ends with token=":                       "ends with token=",
		"BASIC Zm9v":                             "BASIC [4 bytes]",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestIsSecret(t *testing.T) {
	for name, want := range map[string]bool{"Authorization": true, "cookie": true, "set-cookie": true,
		"proxy-authorization": true, "accept": false} {
		if IsSecret(name) != want {
			t.Errorf("IsSecret(%q) is not %v", name, want)
		}
	}
}
