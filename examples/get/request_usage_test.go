package main

import "testing"

// The value of -b without "=" is the name of a file in curl. It is never sent as a cookie.
func TestFilesOfCookiesAreAnError(t *testing.T) {
	s := startServer(t, true)
	all, _ := s.count()
	for _, args := range [][]string{{"-b", "cookies.txt"}, {"-b", "a=b", "-b", "c"},
		{"bench", "-n", "1", "-b", "c"}} {
		exit, _, errs := get(t, append(args, "-k", s.URL+"/page")...)
		wantText(t, errs, args[len(args)-1], "files of cookies are not supported")
		if exit != exitUsage || all.Load() != 0 {
			t.Errorf("%v: exit %d, %d requests", args, exit, all.Load())
		}
	}
	exit, out, errs := get(t, "-k", "-b", "a=b; c", "-b", "d=", s.URL+"/echo/x")
	wantText(t, out, "cookie: a=b; c; d=\n")
	if exit != exitOK {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

// What can be seen to be wrong in the command line has the exit code for that, in get and get
// bench.
func TestCommandLinesThatAreWrong(t *testing.T) {
	s := startServer(t, true)
	all, _ := s.count()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-H", "noColon"}, "-H: a field is neither"},
		{[]string{"-H", ""}, "-H: a field is neither"},
		{[]string{"-H", "a b: c"}, "\"a b\" is not the name"},
		{[]string{"-H", ": c"}, "\"\" is not the name"},
		{[]string{"-H", ":path: /x"}, "\"\" is not the name"},
		{[]string{"-H", "x: a\x00b"}, "the value of x has a byte"},
		{[]string{"-X", "GE T"}, "-X \"GE T\" is not a method"},
		{[]string{"-x", "ftp://h"}, "\"ftp\" is not http"},
		{[]string{"-x", "http://h:65536"}, "not between 1 and 65535"},
		{[]string{"-x", "http://"}, "no host"},
		{[]string{"https://127.0.0.1:65536/"}, "not between 1 and 65535"},
		{[]string{"https://127.0.0.1:0/"}, "not between 1 and 65535"},
	} {
		for _, command := range [][]string{nil, {"bench", "-n", "1"}} {
			args := append(append(command, "-k"), c.args...)
			exit, _, errs := get(t, append(args, s.URL+"/page")...)
			wantText(t, errs, c.want)
			if exit != exitUsage || all.Load() != 0 {
				t.Errorf("%v: exit %d, %d requests, %q", args, exit, all.Load(), errs)
			}
		}
	}
	file := writeFile(t, "fields", "a: b\r\n\r\nnoColon\r\n")
	exit, _, errs := get(t, "-k", "-H", "@"+file, s.URL+"/page")
	wantText(t, errs, file+": a field is neither")
	if exit != exitFailed || all.Load() != 0 {
		t.Errorf("exit %d, %d requests, %q", exit, all.Load(), errs)
	}
}
