package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFilesForSeveralURLs(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		t.Chdir(t.TempDir())
		exit, out, errs := s.get(t, "-o", "one", "-O", "-o", "-",
			s.URL+"/echo/1", s.URL+"/echo/two?query", s.URL+"/echo/3", s.URL+"/echo/4")
		if exit != exitOK || !strings.Contains(out, "GET /echo/3 ") ||
			!strings.Contains(out, "GET /echo/4 ") {
			t.Errorf("exit %d, %q, %q", exit, out, errs)
		}
		for name, want := range map[string]string{"one": "GET /echo/1 ", "two": "GET /echo/two?query "} {
			if b, err := os.ReadFile(name); err != nil || !strings.HasPrefix(string(b), want) {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		}
	})
}

func TestRemoteNamesStayInTheDirectory(t *testing.T) {
	for _, u := range []string{"https://h/", "https://h", "https://h/a/..", "https://h/a/.", "https://h/a/"} {
		exit, _, errs := get(t, "-O", u)
		if exit != exitUsage || !strings.Contains(errs, "no file name") {
			t.Errorf("%s: exit %d, %q", u, exit, errs)
		}
	}
	for u, want := range map[string]string{"https://h/a%2Fb": "a%2Fb", "https://h/x/%2e%2e": "%2e%2e",
		"https://h/x/y?a/b": "y"} {
		o, err := parse([]string{"-O", u})
		if err != nil || o.targets[0].output != want {
			t.Errorf("%s: %q, %v", u, o.targets[0].output, err)
		}
	}
}

func TestFailedRequestMakesNoFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out")
	get(t, "-s", "-o", file, "https://127.0.0.1:1/")
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	s := startServer(t, true)
	exit, _, errs := s.get(t, "-o", "/none/out", s.URL+"/page")
	if exit != exitFailed || !strings.Contains(errs, "/none/out") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestIncludeWritesHeadersAndTrailers(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		exit, out, errs := s.get(t, "-i", "-L", s.URL+"/to/302?url=/trailer")
		first, rest, ok := strings.Cut(out, "\r\n\r\n")
		if exit != exitOK || !ok || !strings.HasPrefix(first, "HTTP/2 302\r\n") ||
			!strings.Contains(first, "\r\nlocation: /trailer\r\n") {
			t.Errorf("exit %d, %q, %q", exit, out, errs)
		}
		if !strings.HasPrefix(rest, "HTTP/2 200\r\n") ||
			!strings.HasSuffix(rest, "\r\n\r\nbody\nx-sum: 5\r\n") {
			t.Errorf("%q", rest)
		}
	})
}

func TestHeadWritesOnlyTheHeader(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		exit, out, errs := s.get(t, "-I", s.URL+"/page")
		if exit != exitOK || !strings.HasPrefix(out, "HTTP/2 200\r\n") ||
			!strings.HasSuffix(out, "\r\n\r\n") ||
			!strings.Contains(out, "content-length: 5\r\n") {
			t.Errorf("exit %d, %q, %q", exit, out, errs)
		}
	})
}

func TestSilent(t *testing.T) {
	s := startServer(t, true)
	exit, _, errs := s.get(t, "-s", s.URL+"/none")
	if exit != exitStatus || errs != "" {
		t.Errorf("exit %d, %q", exit, errs)
	}
	exit, _, errs = s.get(t, "-sS", s.URL+"/none")
	if exit != exitStatus || !strings.Contains(errs, "status 404") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestBodiesAreDecodedUnlessCodingsAreAskedFor(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		if _, out, errs := s.get(t, s.URL+"/gzip"); out != "unpacked\n" {
			t.Errorf("%q, %q", out, errs)
		}
		_, out, errs := s.get(t, "-H", "Accept-Encoding: gzip", s.URL+"/gzip")
		if !strings.HasPrefix(out, "\x1f\x8b") {
			t.Errorf("%q, %q", out, errs)
		}
	})
}
