package interop

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

// trialTimeout is how long a check may take that is expected to fail. A server that never gets what
// does not come uses all of it.
const trialTimeout = 2 * time.Second

// A trial is the testing.TB of a check that is expected to fail. A failure is not one of the test.
type trial struct {
	testing.TB
	mu    sync.Mutex
	first string // the first failure
}

// refute runs a check that is expected to fail, and fails if it passes. If README.md has another
// version of the server, it only reports that: that version may offer more than the table has. It
// does not run a reload if the server has no command for that.
func refute(t *testing.T, r *running, name string, run func(testing.TB, *running)) {
	if name == "Reload" && r.reload == nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), trialTimeout)
	defer cancel()
	r.ctx = ctx
	tr := &trial{TB: t}
	done := make(chan struct{})
	go func() { // FailNow ends the goroutine
		defer close(done)
		run(tr, r)
	}()
	<-done
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch {
	case tr.first != "":
		t.Logf("as expected: %.200s", tr.first)
	case *update || readmeHas(t, "| "+r.server.title+" | "+r.version+" |"):
		t.Fatalf("it passes, although the table says: %s", r.why(name))
	default:
		t.Logf("it passes with version %s, although the table says: %s", r.version, r.why(name))
	}
}

// note records a failure.
func (tr *trial) note(text string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.first == "" {
		tr.first = text
	}
}

// Fail and the methods below record a failure. Those that begin with Fatal, and FailNow, also end
// the check.
func (tr *trial) Fail() { tr.note("it failed") }

func (tr *trial) FailNow() {
	tr.Fail()
	runtime.Goexit()
}

func (tr *trial) Error(args ...any) { tr.note(fmt.Sprint(args...)) }

func (tr *trial) Errorf(format string, args ...any) { tr.note(fmt.Sprintf(format, args...)) }

func (tr *trial) Fatal(args ...any) {
	tr.note(fmt.Sprint(args...))
	runtime.Goexit()
}

func (tr *trial) Fatalf(format string, args ...any) {
	tr.note(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (tr *trial) Failed() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.first != ""
}
