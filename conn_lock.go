package hyper

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// A managerMutex is a connection's lock. Window managers are the one kind of the user's code that runs under it: one that
// calls its connection would wait for itself, for ever and without a trace. That is found here, and is a panic in the
// manager, which ends what the manager is for with a *WindowManagerError.
//
// Who waits for the lock while a manager runs looks into its own stack; nobody else pays, and those who do not use
// managers of their own do not pay either.
type managerMutex struct {
	sync.Mutex
	asks atomic.Uint64 // changed when a manager begins, and when it is done: odd while one runs
}

func (m *managerMutex) enter() { m.asks.Add(1) }
func (m *managerMutex) leave() { m.asks.Add(1) }

// Lock locks m.
func (m *managerMutex) Lock() {
	if m.asks.Load()&1 != 0 { // then m is locked
		m.check()
	}
	m.Mutex.Lock()
}

// check panics if it is a manager that m is locked for which now wants to lock it.
func (m *managerMutex) check() {
	if asks := m.asks.Load(); asks&1 != 0 && insideManager() && m.stands(asks) {
		panic("it calls its own connection, under whose lock it runs")
	}
}

// stands reports whether the manager that runs under m does not come to its end while we wait: then it is the one that waits. Another
// connection's, which may be called, does.
func (m *managerMutex) stands(asks uint64) bool {
	for range 1 << 17 { // tens of milliseconds; time itself may stand still in a test
		if m.asks.Load() != asks {
			return false
		}
		runtime.Gosched()
	}
	return true
}

// insideManager reports whether a window manager has called us, of whatever connection.
func insideManager() bool {
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if strings.HasSuffix(f.Function, "/hyper.(*Window).ask") || strings.HasSuffix(f.Function, "/hyper.(*Window).make") {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
