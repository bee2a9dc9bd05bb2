package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeFile writes a file for a test and returns its name.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRequestFlags(t *testing.T) {
	lines := writeFile(t, "fields", "X-From: a file\r\n\nx-second: too\n")
	data := writeFile(t, "data", "a=1\nb=2\r\n")
	basic := func(pair string) string {
		return "authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) + "\n"
	}
	const form = "content-type: application/x-www-form-urlencoded\n"
	cases := []struct {
		name string
		args []string
		want []string // in what the server got; not those that begin with !
	}{
		{"nothing", nil, []string{"GET /echo/x HTTP/2.0\n", "user-agent: hyper\n", "accept: */*\n",
			"accept-encoding: gzip, deflate, br\n", "length: 0\n"}},
		{"-X", []string{"-X", "DELETE"}, []string{"DELETE /echo/x "}},
		{"-X joined", []string{"-XOPTIONS"}, []string{"OPTIONS /echo/x "}},
		{"-H", []string{"-H", "X-One: 1", "--header", "x-one: 2"}, []string{"x-one: 1|2\n"}},
		{"-H of a file", []string{"-H", "@" + lines}, []string{"x-from: a file\n", "x-second: too\n"}},
		{"-H replaces a default", []string{"-H", "Accept: text/plain", "-H", "User-Agent: mine"},
			[]string{"accept: text/plain\n", "user-agent: mine\n", "!*/*"}},
		{"-H removes user-agent", []string{"-H", "User-Agent:"},
			[]string{"!user-agent", "accept-encoding: gzip, deflate, br\n", "accept: */*\n"}},
		{"-H removes accept-encoding", []string{"-H", "Accept-Encoding:", "-d", "abc"},
			[]string{"!accept-encoding", "user-agent: hyper\n", "length: 3\n"}},
		{"-H with an empty value", []string{"-H", "X-Empty;"}, []string{"x-empty: \n"}},
		{"-H Host", []string{"-H", "Host: other.example"}, []string{"host: other.example\n"}},
		{"-H of HTTP/1.1", []string{"-H", "Connection: keep-alive"}, []string{"!connection", "GET "}},
		{"-A, -e, -b", []string{"-A", "agent", "-e", "https://from/", "-b", "a=1", "-b", "b=2; c=3"},
			[]string{"user-agent: agent\n", "referer: https://from/\n", "cookie: a=1; b=2; c=3\n"}},
		{"-u", []string{"-u", "me:secret:word"}, []string{basic("me:secret:word")}},
		{"-u without a password", []string{"-u", "me"}, []string{basic("me:")}},
		{"-d", []string{"-d", "a=1", "-d", "b=2"}, []string{"POST ", form, "length: 7\n", "\n\na=1&b=2"}},
		{"-d of a file", []string{"-d", "@" + data}, []string{"\n\na=1b=2"}},
		{"-d of standard input", []string{"-d", "@-"}, []string{"\n\nstandardinput"}},
		{"--data-binary", []string{"--data-binary", "@" + data}, []string{form, "\n\na=1\nb=2\r\n"}},
		{"--data-raw", []string{"--data-raw", "@x"}, []string{"\n\n@x"}},
		{"-d and -X", []string{"-X", "PATCH", "-d", "x", "-H", "Content-Type: text/plain"},
			[]string{"PATCH ", "content-type: text/plain\n", "!urlencoded"}},
		{"-T", []string{"-T", data}, []string{"PUT /echo/x ", "length: 9\n", "\n\na=1\nb=2\r\n"}},
		{"-T of standard input", []string{"-T", "-"},
			[]string{"PUT ", "length: -1\n", "\n\nstandard\ninput\n"}},
		{"a command of a browser",
			[]string{"-H", "accept: */*", "--data-raw", "{}", "--compressed", "-X", "POST"},
			[]string{"POST ", "\n\n{}"}},
	}
	eachServer(t, func(t *testing.T, s *testServer) {
		for _, c := range cases {
			exit, out, errs := s.get(t, append(c.args, s.URL+"/echo/x")...)
			if exit != exitOK || errs != "" {
				t.Errorf("%s: exit %d, %s", c.name, exit, errs)
			}
			for _, want := range c.want {
				unwanted, not := strings.CutPrefix(want, "!")
				if not == strings.Contains(out, unwanted) {
					t.Errorf("%s: want %q in\n%s", c.name, want, out)
				}
			}
		}
	})
}

func TestCredentialsOfTheURLAreSentAndNotShown(t *testing.T) {
	s := startServer(t, true)
	u := strings.Replace(s.URL, "://", "://me:secret@", 1)
	_, out, _ := s.get(t, u+"/echo/x")
	if want := base64.StdEncoding.EncodeToString([]byte("me:secret")); !strings.Contains(out, want) {
		t.Errorf("no %s in\n%s", want, out)
	}
	exit, _, errs := s.get(t, u+"/none")
	if exit != exitStatus || strings.Contains(errs, "secret") {
		t.Errorf("exit %d, %s", exit, errs)
	}
}

func TestForm(t *testing.T) {
	file := writeFile(t, "page.html", "<p>")
	cases := []struct {
		name, arg, want string
	}{
		{"a value", "name=a value", "name=\"name\"\r\n\r\na value\r\n"},
		{"a value with a type", "name={};type=application/json",
			"name=\"name\"\r\nContent-Type: application/json\r\n\r\n{}\r\n"},
		{"a file", "f=@" + file,
			"name=\"f\"; filename=\"page.html\"\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>\r\n"},
		{"a file with a name and a type", "f=@" + file + ";type=text/x;filename=\"other\"",
			"name=\"f\"; filename=\"other\"\r\nContent-Type: text/x\r\n\r\n<p>\r\n"},
		{"a type with a charset", "f=<" + file + ";type=text/z; charset=utf-8",
			"name=\"f\"\r\nContent-Type: text/z; charset=utf-8\r\n\r\n<p>\r\n"},
		{"a name before the type", "f=@" + file + ";filename=n;type=text/y",
			"name=\"f\"; filename=\"n\"\r\nContent-Type: text/y\r\n\r\n<p>\r\n"},
		{"the content of a file", "f=<" + file, "name=\"f\"\r\n\r\n<p>\r\n"},
		{"standard input", "f=<-", "name=\"f\"\r\n\r\n" + stdinText + "\r\n"},
		{"a name with a quote", "a\"b=x", "name=\"a%22b\"\r\n\r\nx\r\n"},
	}
	eachServer(t, func(t *testing.T, s *testServer) {
		for _, c := range cases {
			exit, out, errs := s.get(t, "-F", "first=1", "-F", c.arg, "-F", "last=2", s.URL+"/echo/x")
			if exit != exitOK || !strings.Contains(out, c.want) || !strings.Contains(out, "POST ") ||
				strings.Contains(out, "length: -1") ||
				!strings.Contains(out, "name=\"last\"\r\n\r\n2\r\n--") {
				t.Errorf("%s: exit %d, %s; no %q in\n%s", c.name, exit, errs, c.want, out)
			}
		}
	})
}

func TestUploadsToSeveralURLs(t *testing.T) {
	s := startServer(t, true)
	one, two := writeFile(t, "one", "1"), writeFile(t, "two", "22")
	exit, out, errs := s.get(t, "-T", one, "-T", two, s.URL+"/echo/", s.URL+"/echo/named", s.URL+"/echo/last")
	for _, want := range []string{"PUT /echo/one HTTP", "\n\n1PUT /echo/named HTTP",
		"\n\n22GET /echo/last HTTP"} {
		if exit != exitOK || !strings.Contains(out, want) {
			t.Errorf("exit %d, %s; no %q in\n%s", exit, errs, want, out)
		}
	}
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"-I and -d", []string{"-I", "-d", "x"}, exitUsage, "only one of"},
		{"-T and -F", []string{"-T", "x", "-F", "a=b"}, exitUsage, "only one of"},
		{"a file too many", []string{"-o", "a", "-o", "b"}, exitUsage, "2 files for 1 URL ("},
		{"no time", []string{"-m", "soon"}, exitUsage, "not a time"},
		{"no size", []string{"--window", "3g"}, exitUsage, "not a size"},
		{"no field", []string{"-F", "nothing"}, exitFailed, "not name=content"},
		{"no data", []string{"-d", "@/none"}, exitFailed, "/none"},
		{"no file for the form", []string{"-F", "a=@/none"}, exitFailed, "/none"},
		{"no file to upload", []string{"-T", "/none"}, exitFailed, "/none"},
		{"no fields", []string{"-H", "@/none"}, exitFailed, "/none"},
		{"no client certificate", []string{"--cert", "/none"}, exitFailed, "/none"},
		{"another proxy", []string{"-x", "ftp://proxy"}, exitUsage, "ftp"},
		{"a field with a line feed", []string{"-H", "a: b\nc"}, exitUsage, "value of a "},
	} {
		s := startServer(t, true)
		exit, _, errs := s.get(t, append(c.args, s.URL+"/page")...)
		if exit != c.exit || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, want %d; %q, want %q", c.name, exit, c.exit, errs, c.want)
		}
	}
}
