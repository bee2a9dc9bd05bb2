package hyper

import (
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
)

// A managerMutex is a connection's lock. Window managers are the only user code that runs while it
// is held. A manager that calls its own connection would deadlock, without any trace of the cause.
// managerMutex detects this and panics in the manager, which ends the manager's stream or
// connection with a *WindowManagerError.
//
// Only a goroutine that locks the mutex while a manager runs inspects its own stack. All others pay
// nothing, nor do programs without window managers of their own.
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
	if asks := m.asks.Load(); asks&1 != 0 && insideManager() && m.stands(asks) {
		panic("it calls its own connection, under whose lock it runs")
	}
}

// stands reports whether the manager that runs under m does not return while we wait. Then that
// manager is the caller. If a manager calls another connection, which is allowed, the manager that
// runs under m does return.
func (m *managerMutex) stands(asks uint64) bool {
	// This takes tens of milliseconds. Time itself may stand still in a test.
	for range 1 << 17 {
		if m.asks.Load() != asks {
			return false
		}
		runtime.Gosched()
	}
	return true
}

// managerCallers are the names of the two functions that call user code of window managers, as they
// are on a call stack.
var managerCallers = [...]string{functionName((*Window).ask), functionName((*Window).make)}

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
			if f.Function == managerCallers[0] || f.Function == managerCallers[1] {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
