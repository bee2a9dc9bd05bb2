package h2test

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// failureOf returns the message with which f fails its test.
func failureOf(f func(t testing.TB)) string {
	fake, done := &fakeT{}, make(chan struct{})
	go func() {
		defer close(done)
		f(fake)
	}()
	<-done
	return fake.message
}

func TestCallReturnsItsResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Go(func() (int, error) {
			time.Sleep(time.Second)
			return 3, errBoom
		})
		c.WantWaiting(t, "it sleeps")
		if n, err := c.Wait(); n != 3 || err != errBoom || c.Took != time.Second {
			t.Errorf("%d, %v after %v", n, err, c.Took)
		}
		c.WantReturned(t, "it has returned")
		if err := c.WantErr(t, "the error"); err != errBoom {
			t.Error(err)
		}
		one := Go(func() (int, error) { return 1, nil })
		if n := one.Want(t, "the value"); n != 1 {
			t.Error(n)
		}
		exits := Go(func() (int, error) { runtime.Goexit(); return 0, nil })
		if err := exits.WantErr(t, "the end of the goroutine"); err != ErrExited {
			t.Error(err)
		}
	})
}

func TestCallFailsTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fine := Go(func() (*int, error) { return new(int), nil })
		broken := Go(func() (*int, error) { return nil, errBoom })
		both := Go(func() (*int, error) { return new(int), errors.New("beside it") })
		waits := make(chan struct{})
		waiting := Go(func() (*int, error) { <-waits; return nil, nil })
		for _, test := range []struct {
			name string
			run  func(t testing.TB)
			want string // in the failure
		}{
			{"Want", func(t testing.TB) { broken.Want(t, "why") }, "why: boom"},
			{"WantErr", func(t testing.TB) { fine.WantErr(t, "why") }, "why: want an error"},
			{"WantErr with a value", func(t testing.TB) { both.WantErr(t, "why") }, "why: a value beside"},
			{"WantReturned", func(t testing.TB) { waiting.WantReturned(t, "why") }, "why: the call has not"},
			{"WantWaiting", func(t testing.TB) { broken.WantWaiting(t, "why") }, "why: the call returned"},
		} {
			if got := failureOf(test.run); !strings.HasPrefix(got, test.want) {
				t.Errorf("%s fails with %q, want %q", test.name, got, test.want)
			}
		}
		close(waits)
	})
}
