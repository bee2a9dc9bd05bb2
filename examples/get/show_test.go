package main

import (
	"crypto/tls"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gohyper.dev/hyper"
)

func TestVerboseHasTimeAndConnection(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		_, _, errs := s.get(t, "-v", s.URL+"/page")
		if !regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d{6} c\d+ -> HEADERS stream=1`).MatchString(errs) {
			t.Error(errs)
		}
	})
}

func TestArchiveAndWaterfall(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		dir := t.TempDir()
		har, page := filepath.Join(dir, "a.har"), filepath.Join(dir, "a.html")
		exit, _, errs := s.get(t, "-har", har, "-waterfall", page, s.URL+"/page", s.URL+"/none")
		if exit != exitStatus {
			t.Errorf("exit %d, %q", exit, errs)
		}
		var archive struct {
			Log struct {
				Entries []struct {
					Request  struct{ URL string }
					Response struct{ Status int }
				}
			}
		}
		text, err := os.ReadFile(har)
		if err == nil {
			err = json.Unmarshal(text, &archive)
		}
		if entries := archive.Log.Entries; err != nil || len(entries) != 2 ||
			!strings.HasPrefix(entries[0].Request.URL, s.URL) ||
			entries[0].Response.Status+entries[1].Response.Status != 604 {
			t.Errorf("%v, %+v", err, archive)
		}
		if html, err := os.ReadFile(page); err != nil || !strings.Contains(string(html), "/page") {
			t.Errorf("%v, %d bytes", err, len(html))
		}
	})
	if exit, _, errs := get(t, "-s", "-har", "/none/a.har", "https://127.0.0.1:1/"); exit != exitFailed ||
		!strings.Contains(errs, "/none/a.har") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestTimings(t *testing.T) {
	s := startServer(t, true)
	u := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	exit, out, errs := get(t, "-k", "--timing", u+"/page", u+"/style", u+"/none")
	if exit != exitStatus || out != "page\nstyle404 page not found\n" {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
	const d = ` +\d[\d.e+]* [um]?s`
	first := regexp.MustCompile(`(?m)^` + strings.Repeat(d, 5) + ` +(200|404)  https://`)
	later := regexp.MustCompile(`(?m)^ +- +- +-` + strings.Repeat(d, 2) + ` +(200|404)  https://`)
	if len(first.FindAllString(errs, -1)) != 1 || len(later.FindAllString(errs, -1)) != 2 ||
		!strings.Contains(errs, "dns  ") {
		t.Error(errs)
	}
}

func TestStatistics(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		exit, out, errs := s.get(t, "-n", "-push", s.URL+"/page", s.URL+"/none")
		if exit != exitStatus {
			t.Errorf("exit %d, %q", exit, errs)
		}
		if !strings.HasPrefix(out, "***** Statistics *****\n") || strings.Contains(out, "page\n***") {
			t.Error(out)
		}
		for _, want := range []string{
			`(?m)^ *\d+ +\+[\d.e+]+ [um]?s +\+[\d.e+]+ [um]?s +[\d.e+]+ [um]?s +200 +5  http.*/page$`,
			`(?m)^ *2 +\+[\d.e+]+ [um]?s +\*\+[\d.e+]+ [um]?s +[\d.e+]+ [um]?s +200 +5  /style$`,
			`(?m) 404 +19  http.*/none$`,
		} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("no %s in\n%s", want, out)
			}
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	s := startServer(t, true)
	conn, err := hyper.Dial(t.Context(), s.URL, &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := conn.Get(t.Context(), "/page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	h := &history{}
	for range maxEntries + 5 {
		h.add(&entry{resp: resp, link: &link{}})
	}
	var out strings.Builder
	h.writeStatistics(&out)
	if n := len(h.list()); n != maxEntries || !strings.HasSuffix(out.String(), "\n5 more are left out\n") {
		t.Errorf("%d entries", n)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"bench", "--help"}} {
		exit, out, errs := get(t, args...)
		if exit != exitOK || errs != "" || !strings.Contains(out, "usage: get") ||
			!strings.Contains(out, "exit codes:\n  0 ") {
			t.Errorf("exit %d, %q, %q", exit, out, errs)
		}
		for line := range strings.Lines(out) {
			if len(line) > lastColumn+5 { // some characters have two or three bytes
				t.Errorf("a line of %d bytes: %s", len(line), line)
			}
		}
	}
}
