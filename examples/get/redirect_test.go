package main

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestRedirectsAreFollowedAsByCurl(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		for _, c := range []struct {
			status int
			args   []string
			want   string // the request after the redirect
			body   string
		}{
			{301, nil, "GET", ""},
			{302, []string{"-d", "x=1"}, "GET", ""},
			{303, []string{"-T", "-"}, "GET", ""},
			{307, []string{"-d", "x=1"}, "POST", "x=1"},
			{308, []string{"-X", "PATCH", "-d", "x=1"}, "PATCH", "x=1"},
			{302, []string{"-X", "POST", "-d", "x=1"}, "POST", ""},
		} {
			// The second hop is relative.
			to := fmt.Sprintf("%s/to/%d?url=%s", s.URL, c.status, url.QueryEscape("../echo/end#part"))
			exit, out, errs := s.get(t, append(c.args, "-L", to)...)
			if exit != exitOK || errs != "" || !strings.HasPrefix(out, c.want+" /echo/end HTTP") ||
				!strings.HasSuffix(out, "\n\n"+c.body) || strings.Contains(out, "moved") {
				t.Errorf("%d %v: exit %d, %q, %q", c.status, c.args, exit, out, errs)
			}
		}
	})
}

func TestRedirectIsReportedWithoutL(t *testing.T) {
	s := startServer(t, true)
	exit, out, errs := s.get(t, s.URL+"/to/302?url=/echo/x")
	if exit != exitOK || out != "moved\n" || !strings.Contains(errs, "status 302, see /echo/x\n") {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestRedirectsInACircleEnd(t *testing.T) {
	s := startServer(t, true)
	exit, out, errs := s.get(t, "-i", "-L", "--max-redirs", "3", s.URL+"/circle")
	if exit != exitFailed || !strings.Contains(errs, "more than 3 redirects") ||
		strings.Count(out, "HTTP/2 302") != 4 || strings.Contains(out, "<a ") {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestRedirectToAnotherOriginHasNoCredentials(t *testing.T) {
	s, other := startServer(t, true), startServer(t, true)
	args := []string{"-k", "-L", "-u", "me:secret", "-b", "a=1", "-H", "X-Mine: 1"}
	for to, secret := range map[string]bool{s.URL: true, other.URL: false} {
		_, out, errs := get(t, append(args, s.URL+"/to/307?url="+url.QueryEscape(to+"/echo/x"))...)
		if strings.Contains(out, "authorization: ") != secret ||
			strings.Contains(out, "cookie: ") != secret ||
			!strings.Contains(out, "x-mine: 1\n") {
			t.Errorf("%q\n%s", out, errs)
		}
	}
}

func TestRedirectToAnotherSchemeIsRefused(t *testing.T) {
	s := startServer(t, true)
	exit, _, errs := s.get(t, "-L", s.URL+"/to/301?url=file:///etc/passwd")
	if exit != exitFailed || !strings.Contains(errs, "the redirect: ") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestStandardInputIsNotSentTwice(t *testing.T) {
	s := startServer(t, true)
	exit, _, errs := s.get(t, "-L", "-T", "-", s.URL+"/to/307?url=/echo/x")
	if exit != exitFailed || !strings.Contains(errs, errNotAgain.Error()) {
		t.Errorf("exit %d, %q", exit, errs)
	}
}
