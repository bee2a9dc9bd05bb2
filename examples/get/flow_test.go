package main

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestRateHoldsDownloads(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		for _, flag := range []string{"-rate", "--limit-rate"} {
			began := time.Now()
			exit, out, errs := s.get(t, flag, "1m", s.URL+"/long/a")
			if exit != exitOK || len(out) != longSize {
				t.Errorf("exit %d, %d bytes, %q", exit, len(out), errs)
			}
			// 1.5 MiB take 1.5 s, less the first burst of a quarter of a second.
			if took := time.Since(began); took < 1100*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		}
	})
}

func TestRateHoldsUploads(t *testing.T) {
	s := startServer(t, true)
	file := writeFile(t, "data", strings.Repeat("x", 100<<10))
	began := time.Now()
	exit, out, errs := s.get(t, "-rate", "200k", "-T", file, s.URL+"/echo/x")
	if exit != exitOK || !strings.HasSuffix(out, strings.Repeat("x", 100<<10)) ||
		!strings.Contains(out, "length: 102400\n") {
		t.Errorf("exit %d, %d bytes, %q", exit, len(out), errs)
	}
	if took := time.Since(began); took < 350*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestWindowIsAnnounced(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		exit, out, errs := s.get(t, "-v", "-window", "40k", s.URL+"/long/a")
		if exit != exitOK || len(out) != longSize ||
			!regexp.MustCompile(`-> SETTINGS .*INITIAL_WINDOW_SIZE=40960`).MatchString(errs) {
			t.Errorf("exit %d, %d bytes, %.2000q", exit, len(out), errs)
		}
	})
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{"1": 1, "64k": 64 << 10, "64K": 64 << 10, "2m": 2 << 20,
		"1G": 1 << 30,
		"0":  0, "-1": 0, "k": 0, "2g": 0, "1.5m": 0, "": 0, "9999999999999999999": 0} {
		var s size
		if err := s.Set(text); s != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, s, err)
		}
	}
}
