package h2test

import (
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

// A Call is a call that runs on another goroutine. Its results may be read after Done is closed.
type Call[T any] struct {
	Done  chan struct{}
	Value T
	Err   error
	Took  time.Duration
}

// ErrExited is the error of a call that has ended its goroutine by runtime.Goexit.
var ErrExited = errors.New("the call ended its goroutine")

// Go runs f on another goroutine.
func Go[T any](f func() (T, error)) *Call[T] {
	c, start := &Call[T]{Done: make(chan struct{})}, time.Now()
	go func() {
		defer close(c.Done)
		c.Err = ErrExited // unless f returns
		c.Value, c.Err = f()
		c.Took = time.Since(start)
	}()
	return c
}

// Wait waits until the call has returned, and returns its results.
func (c *Call[T]) Wait() (T, error) {
	<-c.Done
	return c.Value, c.Err
}

// Want waits for the value and requires that there is no error.
func (c *Call[T]) Want(t testing.TB, reason string) T {
	t.Helper()
	if <-c.Done; c.Err != nil {
		t.Fatalf("%s: %v", reason, c.Err)
	}
	return c.Value
}

// WantErr waits for an error and returns it. If the value is a pointer, it must be nil then.
func (c *Call[T]) WantErr(t testing.TB, reason string) error {
	t.Helper()
	if <-c.Done; c.Err == nil {
		t.Fatalf("%s: want an error, got %+v", reason, c.Value)
	}
	if v := reflect.ValueOf(&c.Value).Elem(); v.Kind() == reflect.Pointer && !v.IsNil() {
		t.Errorf("%s: a value beside the error %v", reason, c.Err)
	}
	return c.Err
}

// WantReturned requires that the call has returned when all other goroutines of the bubble wait.
func (c *Call[T]) WantReturned(t testing.TB, reason string) {
	t.Helper()
	if !c.returned() {
		t.Fatalf("%s: the call has not returned", reason)
	}
}

// WantWaiting requires that the call has not returned when all other goroutines of the bubble wait.
func (c *Call[T]) WantWaiting(t testing.TB, reason string) {
	t.Helper()
	if c.returned() {
		t.Fatalf("%s: the call returned %+v, %v", reason, c.Value, c.Err)
	}
}

// returned waits until all other goroutines of the bubble wait, and reports whether the call has
// returned.
func (c *Call[T]) returned() bool {
	synctest.Wait()
	select {
	case <-c.Done:
		return true
	default:
		return false
	}
}
