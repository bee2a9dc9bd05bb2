package work

import (
	"bytes"
	"fmt"
	"runtime/pprof"

	"github.com/google/pprof/profile"
)

// waitFuncs are the functions in which a goroutine waits for a mutex, or wakes one that does.
var waitFuncs = map[string]bool{
	"internal/sync.(*Mutex).lockSlow":   true,
	"internal/sync.(*Mutex).unlockSlow": true,
	"sync.runtime_SemacquireRWMutexR":   true,
	"sync.(*RWMutex).rUnlockSlow":       true,
}

// lockProfile calls work, and returns the part of the CPU time that the waits for locks took: in
// them, and in the scheduler because of them.
func lockProfile(work func() error) (part float64, err error) {
	var buf bytes.Buffer
	if err := pprof.StartCPUProfile(&buf); err != nil {
		return 0, err
	}
	err = work()
	pprof.StopCPUProfile()
	if err != nil {
		return 0, err
	}
	p, err := profile.Parse(&buf)
	if err != nil {
		return 0, fmt.Errorf("the CPU profile: %w", err)
	}
	var waits, all int64
	for _, s := range p.Sample {
		all += s.Value[0]
		if waitsForLock(s) {
			waits += s.Value[0]
		}
	}
	return float64(waits) / float64(max(1, all)), nil
}

// waitsForLock reports whether the sample was taken in a wait for a lock.
func waitsForLock(s *profile.Sample) bool {
	for _, at := range s.Location {
		for _, line := range at.Line {
			if waitFuncs[line.Function.Name] {
				return true
			}
		}
	}
	return false
}
