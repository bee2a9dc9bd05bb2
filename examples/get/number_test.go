package main

import "testing"

func TestNumbersHaveNoExponent(t *testing.T) {
	for _, c := range []struct {
		x      float64
		digits int
		want   string
	}{
		{0, 3, "0"}, {1e6, 5, "1000000"}, {1234567, 5, "1234567"}, {999.96, 3, "1000"}, {999.4, 3, "999"},
		{26024.6, 5, "26025"}, {26.64, 3, "26.6"}, {5.7, 3, "5.7"}, {10, 3, "10"}, {0.152, 2, "0.15"},
		{0.00001234, 3, "0.0000123"},
	} {
		if got := number(c.x, c.digits); got != c.want {
			t.Errorf("%g with %d digits: %s, want %s", c.x, c.digits, got, c.want)
		}
	}
	if got := bytesText(999.96); got != "1000 B" {
		t.Error(got)
	}
}

func TestOneIsSingular(t *testing.T) {
	s := startServer(t, true)
	_, out, _ := get(t, "bench", "-k", "-n", "3", "-m", "1", "-r", "1000000", s.URL+"/page")
	wantText(t, out, "connections: 1, each with 1 request at a time; open model, 1000000 requests/s\n")
	if got := counted(1, "new connection") + ", " + counted(2, "new connection"); got !=
		"1 new connection, 2 new connections" {
		t.Error(got)
	}
}
