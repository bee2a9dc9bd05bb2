package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

func TestReadmeHasTheFieldsOfTheResults(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []reflect.Type{reflect.TypeFor[result](), reflect.TypeFor[latency]()} {
		for i := range kind.NumField() {
			name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			wantText(t, string(text), "`"+name+"`")
		}
	}
}

// readResult reads a file of --json.
func readResult(t *testing.T, name string) (r result) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Errorf("%v: %q", err, text)
	}
	return r
}

func TestBenchWritesTheResultsOfAFailedRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result.json")
	exit, out, errs := get(t, "bench", "-n", "5", "--json", file, "https://127.0.0.1:1/")
	r := readResult(t, file)
	if exit != exitFailed || out != "" || !strings.Contains(r.Error, "refused") || r.Requests != 0 ||
		len(r.URLs) != 1 {
		t.Errorf("exit %d, %q, %q, %+v", exit, out, errs, r)
	}
}

func TestBenchWritesTheResultsAfterASignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot send itself SIGTERM")
	}
	s := startServer(t, true)
	all, _ := s.count()
	file := filepath.Join(t.TempDir(), "result.json")
	ctx, stop := untilSignal(t.Context())
	defer stop()
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for all.Load() < 20 {
			time.Sleep(time.Millisecond)
		}
		self.Signal(syscall.SIGTERM)
	}()
	var out, errs h2test.Buffer
	exit := run(ctx, []string{"bench", "-k", "-D", "20", "--json", file, s.URL + "/page"},
		stdio{strings.NewReader(""), &out, &errs})
	r := readResult(t, file)
	if exit != exitFailed || !r.Interrupted || r.Requests < 5 || r.Elapsed > 15*time.Second {
		t.Errorf("exit %d, %q, %+v", exit, errs.String(), r)
	}
	wantText(t, out.String(), "note: interrupted")
}

// A file that cannot be written is an error before the first request.
func TestFilesAreCreatedBeforeTheRequests(t *testing.T) {
	s := startServer(t, true)
	all, _ := s.count()
	for _, args := range [][]string{{"bench", "-n", "5", "--json", "/none/x"}, {"--har", "/none/x"},
		{"--waterfall", "/none/x"}, {"--har", t.TempDir()}} {
		exit, _, errs := get(t, append(args, "-k", s.URL+"/page")...)
		wantText(t, errs, args[len(args)-1])
		if exit != exitFailed || all.Load() != 0 {
			t.Errorf("%v: exit %d, %d requests", args, exit, all.Load())
		}
	}
	file := filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	exit := run(ctx, []string{"--har", file, "-d", "@/none", s.URL}, stdio{strings.NewReader(""),
		new(h2test.Buffer), new(h2test.Buffer)})
	if text, err := os.ReadFile(file); err != nil || string(text) != "old" || exit != exitFailed {
		t.Errorf("exit %d, %q, %v", exit, text, err)
	}
}
