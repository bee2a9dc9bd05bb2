package main

import (
	"os"
	"path/filepath"
	"testing"
)

// Two bodies are not written to one file at the same time.
func TestEachBodyHasAFileOfItsOwn(t *testing.T) {
	s := startServer(t, true)
	all, _ := s.count()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("there", []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("there", "linked"); err != nil {
		t.Skip(err)
	}
	abs, err := filepath.Abs("x")
	if err != nil {
		t.Fatal(err)
	}
	one, two := s.URL+"/echo/a/x", s.URL+"/echo/b/x"
	for _, places := range [][]string{{"-O", "-O"}, {"-o", "x", "-O"}, {"-o", "y", "-o", "./y"},
		{"-o", abs, "-O"}, {"-o", "there", "-o", "linked"}} {
		exit, _, errs := s.get(t, append(places, one, two)...)
		wantText(t, errs, one, two, "both")
		if exit != exitUsage {
			t.Errorf("%v: exit %d, %q", places, exit, errs)
		}
	}
	if all.Load() != 0 {
		t.Errorf("%d requests were sent", all.Load())
	}
	if _, err := os.Stat("x"); !os.IsNotExist(err) {
		t.Error(err)
	}
	if text, err := os.ReadFile("there"); err != nil || string(text) != "old" {
		t.Errorf("%q, %v", text, err)
	}
	exit, _, errs := s.get(t, "-o", os.DevNull, "-o", os.DevNull, one, two)
	if exit != exitOK || all.Load() != 2 {
		t.Errorf("exit %d, %d requests, %q", exit, all.Load(), errs)
	}
}
