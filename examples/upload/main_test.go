package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
)

func TestUploadGoesOnAfterErrors(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"% has left", "goes on at 11184810 after: ", "INTERNAL_ERROR",
		"goes on at 22369621 after: ", "the server has 33554432 bytes, SHA-256 "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestFilesOfAnySize(t *testing.T) {
	for _, size := range []int{0, 1, 2, 100_000} {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, bytes.Repeat([]byte{'x'}, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(t.Context(), io.Discard, name); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	err := run(t.Context(), io.Discard, filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want that the file does not exist", err)
	}
}

// newUploader returns an Uploader to a server that runs handler until the test ends.
func newUploader(t *testing.T, handler http.HandlerFunc) *Uploader {
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	addr := server.Listener.Addr().String()
	return &Uploader{
		URL:         &url.URL{Scheme: "https", Host: addr, Path: "/files"},
		MaxAttempts: 5,
		Dial: func(ctx context.Context) (*hyper.Conn, error) {
			return hyper.Dial(ctx, addr, &hyper.Config{TLS: &tls.Config{InsecureSkipVerify: true}})
		},
	}
}

// send sends size bytes.
func send(t *testing.T, u *Uploader, size int64) (string, error) {
	return u.Upload(t.Context(), bytes.NewReader(make([]byte, size)), size)
}

// The server reads nothing until the first progress, which is what fits its windows.
func TestProgressIsWhatHasLeft(t *testing.T) {
	const size = 10 << 20
	begin := make(chan struct{})
	beginOnce := sync.OnceFunc(func() { close(begin) })
	u := newUploader(t, func(w http.ResponseWriter, r *http.Request) {
		<-begin
		io.Copy(io.Discard, r.Body)
	})
	var told []int64
	u.Progress = func(sent int64) {
		told = append(told, sent)
		if sent > 0 { // the first progress may be more than 0
			beginOnce()
		}
	}
	if _, err := send(t, u, size); err != nil {
		t.Fatal(err)
	}
	if first := slices.IndexFunc(told, func(n int64) bool { return n > 0 }); told[first] > size/2 {
		t.Errorf("%d of %d bytes had left while the server read nothing", told[first], size)
	}
	if !slices.IsSorted(told) || told[len(told)-1] > size {
		t.Errorf("the progress was %d", told)
	}
}

func TestWhatEndsAnUpload(t *testing.T) {
	tests := map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a refusal": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
		}, "answers 403"},
		"nothing new": {func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				w.Header().Set("Location", "/files/7")
				w.WriteHeader(104)
			}
			if r.Method == "HEAD" {
				w.Header().Set("Upload-Offset", "0")
				return
			}
			panic(http.ErrAbortHandler)
		}, "5 attempts"},
		"another host": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://other.example/files/7")
			w.WriteHeader(104)
			io.Copy(io.Discard, r.Body)
		}, "another host, other.example"},
		"an offset beyond the end": {func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				w.Header().Set("Location", "/files/7")
				w.WriteHeader(104)
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Upload-Offset", "1000001")
		}, `has "1000001" of 1000000 bytes`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := send(t, newUploader(t, test.handler), 1_000_000)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// A server without resumable uploads gets the content from its beginning again.
func TestServerWithoutResumption(t *testing.T) {
	posts := 0
	u := newUploader(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		n, _ := io.Copy(io.Discard, r.Body)
		if n != 100_000 {
			t.Errorf("%d bytes", n)
		}
		if posts++; posts < 3 {
			panic(http.ErrAbortHandler)
		}
	})
	if _, err := send(t, u, 100_000); err != nil || posts != 3 {
		t.Errorf("%v after %d requests", err, posts)
	}
}

// A server that restarts refuses connections for a while. The upload goes on, and OnResume gets
// what stopped it.
func TestServerThatRestarts(t *testing.T) {
	posts := 0
	u := newUploader(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if posts++; posts == 1 {
			panic(http.ErrAbortHandler)
		}
	})
	dials, dial := 0, u.Dial
	u.Dial = func(ctx context.Context) (*hyper.Conn, error) {
		if dials++; dials == 2 || dials == 3 {
			return nil, syscall.ECONNREFUSED
		}
		return dial(ctx)
	}
	var stopped []error
	u.OnResume = func(_ int64, err error) { stopped = append(stopped, err) }
	if _, err := send(t, u, 1000); err != nil {
		t.Fatal(err)
	}
	if len(stopped) != 1 || !errors.Is(stopped[0], hyper.ErrCodeInternal) {
		t.Errorf("OnResume got %v, want one INTERNAL_ERROR", stopped)
	}
}

// Without a server, the pauses grow to five seconds, and the upload gives up after a minute.
func TestNoServer(t *testing.T) {
	tests := map[string]struct {
		limits   Uploader
		timeout  time.Duration
		attempts int
		passed   time.Duration
	}{
		"the defaults": {Uploader{}, time.Hour, 18, time.Minute},
		"the count":    {Uploader{MaxAttempts: 3}, time.Hour, 3, 300 * time.Millisecond},
		"the time":     {Uploader{MaxWait: 10 * time.Second}, time.Hour, 8, 10 * time.Second},
		"the context":  {Uploader{}, 2 * time.Second, 5, 2 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
				defer cancel()
				attempts, began := 0, time.Now()
				u := test.limits
				u.Dial = func(context.Context) (*hyper.Conn, error) {
					attempts++
					return nil, syscall.ECONNREFUSED
				}
				_, err := u.Upload(ctx, strings.NewReader("x"), 1)
				if passed := time.Since(began); attempts != test.attempts || passed != test.passed {
					t.Errorf("%d attempts in %v, want %d in %v", attempts, passed, test.attempts, test.passed)
				}
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%v, want the error of the last attempt", err)
				}
			})
		})
	}
}

func TestArgumentsThatCannotBeSent(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{dir}, dir + " is not a regular file"},
		{[]string{os.DevNull}, os.DevNull + " is not a regular file"},
		{[]string{"one", "two"}, "2 arguments, want one file at most"},
	} {
		if err := run(t.Context(), io.Discard, test.args...); err == nil || err.Error() != test.want {
			t.Errorf("%q: %v, want %q", test.args, err, test.want)
		}
	}
}
