package flowsim

import (
	"syscall"
	"testing"
)

// TestClientSetsTheLimitOfUnsentBytes checks that an upload's socket obeys TCP_NOTSENT_LOWAT, that it
// starts without a limit, and that a socket without options has no descriptor.
func TestClientSetsTheLimitOfUnsentBytes(t *testing.T) {
	r := newRun(Scenario{RTT: 10 * ms, Rate: 1e6, Sender: Cubic, Direction: Upload})
	defer r.up.close()
	if got := r.up.room(false); got != sendBuffer {
		t.Errorf("room for %d bytes without an option, want %d", got, sendBuffer)
	}
	raw, err := r.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const limit = 20000
	control := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, notSentOption, limit)
	})
	if control != nil || err != nil {
		t.Fatal(control, err)
	}
	if got := r.up.room(false); got != limit {
		t.Errorf("room for %d bytes, want %d", got, limit)
	}
	if _, err := newRun(Scenario{Rate: 1e6, Direction: Upload, NotSent: noOption}).socket.SyscallConn(); err == nil {
		t.Error("a socket without options has a descriptor")
	}
}
