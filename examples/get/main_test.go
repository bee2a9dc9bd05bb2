package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBodyGoesToStandardOutput(t *testing.T) {
	s := startServer(t, true)
	exit, out, errs := get(t, "-cacert", s.caCert, s.URL+"/page")
	if exit != exitOK || out != "page\n" || errs != "" {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestURLsOfOneHostShareAConnectionAndKeepTheirOrder(t *testing.T) {
	s := startServer(t, true)
	args := []string{"-cacert", s.caCert}
	var want strings.Builder
	for letter := 'a'; letter <= 'z'; letter++ {
		args = append(args, fmt.Sprintf("%s/long/%c", s.URL, letter))
		want.WriteString(strings.Repeat(string(letter), longSize))
	}
	exit, out, errs := get(t, args...)
	if exit != exitOK || out != want.String() {
		t.Errorf("exit %d, %d bytes of %d, %q", exit, len(out), want.Len(), errs)
	}
	if len(s.peers) != 1 {
		t.Errorf("%d connections", len(s.peers))
	}
}

func TestOutputFile(t *testing.T) {
	s := startServer(t, true)
	file := filepath.Join(t.TempDir(), "out")
	exit, out, errs := get(t, "-k", "-o", file, s.URL+"/page")
	body, err := os.ReadFile(file)
	if exit != exitOK || out != "" || string(body) != "page\n" || err != nil {
		t.Errorf("exit %d, %q, %q, %q, %v", exit, out, errs, body, err)
	}
}

func TestVerboseShowsFramesBothWays(t *testing.T) {
	s := startServer(t, true)
	_, _, errs := get(t, "-v", "-cacert", s.caCert, s.URL+"/page")
	for _, want := range []string{"-> PREFACE\n", "-> HEADERS stream=1", "       :path: /page\n",
		"<- HEADERS stream=1", "       :status: 200\n", "<- DATA stream=1"} {
		if !strings.Contains(errs, want) {
			t.Errorf("no %q in\n%s", want, errs)
		}
	}
}

func TestPushesAreListed(t *testing.T) {
	s := startServer(t, true)
	exit, out, errs := get(t, "-push", "-cacert", s.caCert, s.URL+"/page")
	if want := "push /style (stream 2, promised on 1): status 200, 5 bytes\n"; exit != exitOK ||
		out != "page\n" || errs != want {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestCleartextByPriorKnowledge(t *testing.T) {
	s := startServer(t, false)
	exit, out, errs := get(t, s.URL+"/page")
	if exit != exitOK || out != "page\n" {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

func TestFailuresHaveATextAndAnExitCode(t *testing.T) {
	s := startServer(t, true)
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.Config.ErrorLog = s.Config.ErrorLog
	old.StartTLS()
	defer old.Close()
	for _, c := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"no URL", nil, exitUsage, "usage: get"},
		{"an unknown option", []string{"-x"}, exitUsage, "-x"},
		{"no scheme", []string{"example.com"}, exitUsage, "not a URL"},
		{"another scheme", []string{"ftp://example.com/"}, exitUsage, "not a URL"},
		{"status 404", []string{"-k", s.URL + "/none"}, exitStatus, "status 404"},
		{"a body cut short", []string{"-k", s.URL + "/cut"}, exitFailed, "INTERNAL_ERROR"},
		{"one of two", []string{"-k", s.URL + "/cut", s.URL + "/none"}, exitFailed, "status 404"},
		{"an unknown authority", []string{s.URL + "/page"}, exitFailed, "-cacert"},
		{"a file of authorities that is not there", []string{"-cacert", "none", s.URL + "/page"}, exitFailed,
			"none"},
		{"a server without HTTP/2", []string{"-k", old.URL}, exitFailed, "does not speak HTTP/2"},
		{"no server there", []string{"https://127.0.0.1:1/"}, exitFailed, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			exit, _, errs := get(t, c.args...)
			if exit != c.exit || !strings.Contains(errs, c.want) {
				t.Errorf("exit %d, want %d; %q, want %q", exit, c.exit, errs, c.want)
			}
		})
	}
}
