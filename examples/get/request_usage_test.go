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
