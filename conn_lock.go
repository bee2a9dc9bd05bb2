package hyper

import (
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// A managerMutex is a connection's lock. Window managers are the only user code that runs while it
// is held. A manager that calls its own connection would deadlock, without any trace of the cause.
// managerMutex detects this and panics in the manager, which ends the manager's stream or
// connection with a *WindowManagerError.
//
// Only a goroutine that waits for the mutex while one manager runs for long inspects its own stack.
// All others pay nothing, nor do programs that choose no window manager.
type managerMutex struct {
	sync.Mutex
	// Incremented when a manager begins and when it returns: odd while one runs.
	asks atomic.Uint64
}

// enter is called before user code of a window manager runs.
func (m *managerMutex) enter() { m.asks.Add(1) }

// leave is called after user code of a window manager has run.
func (m *managerMutex) leave() { m.asks.Add(1) }

// Lock locks m.
func (m *managerMutex) Lock() {
	if m.asks.Load()&1 != 0 { // m is locked
		m.check()
	}
	m.Mutex.Lock()
}

// check panics if the caller is the window manager that runs while m is locked.
func (m *managerMutex) check() {
	asks := m.asks.Load()
	if asks&1 != 0 && m.stands(asks, 16) && insideManager() && m.stands(asks, 1<<17) {
		panic("it calls its own connection, under whose lock it runs")
	}
}

// stands reports whether the manager that runs under m does not return while we yield the processor
// this many times; 1<<17 yields take tens of milliseconds. Time is not used, because it may stand
// still in a test. If the caller is inside a manager and stands returns true, that manager is the
// one that runs under m. If a manager calls another connection, which is allowed, the manager that
// runs under m does return.
func (m *managerMutex) stands(asks uint64, yields int) bool {
	for range yields {
		if m.asks.Load() != asks {
			return false
		}
		runtime.Gosched()
	}
	return true
}

// managerCallers are the names of the functions that call user code of window managers, as they
// are on a call stack.
var managerCallers = []string{functionName((*Window).ask), functionName((*Window).make),
	functionName((*Window).askInitial)}

// functionName returns the name of the function f.
func functionName(f any) string { return runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name() }

// insideManager reports whether a window manager of any connection is on the call stack.
func insideManager() bool {
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if slices.Contains(managerCallers, f.Function) {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
