package flowsim

import (
	"syscall"
	"testing"
)

// TestClientSetsTheLimitOfUnsentBytes checks that an upload's socket obeys TCP_NOTSENT_LOWAT, that
// it starts without a limit, and that a socket without options has no descriptor.
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
	if err := raw.Control(func(uintptr) {}); err == nil {
		t.Error("what only reads the socket's state does not fail")
	}
	without := newRun(Scenario{Rate: 1e6, Direction: Upload, NotSent: noOption})
	if _, err := without.socket.SyscallConn(); err == nil {
		t.Error("a socket without options has a descriptor")
	}
}

// reachedUploading are the bounds of the upload rows in which the goal is not reached, or hardly.
// A queue of a second is filled by the client's own TCP, which no turns of the writer can prevent.
var reachedUploading = map[string]goal{
	"10 Mbit/s, 40 ms, queue 1 s, 8 uploads":    {ratio: 0.97, latency: 1300 * ms},
	"100 Mbit/s, 40 ms, queue 0.1 s, 8 uploads": {ratio: 0.95, latency: 170 * ms},
}

// TestUploadRowsReachTheirBounds checks the upload rows of the README, with fewer bytes.
func TestUploadRowsReachTheirBounds(t *testing.T) {
	needs64Bits(t)
	t.Parallel()
	for i, w := range uploadRows {
		if raced && i > 0 {
			break
		}
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			bound, ok := reachedUploading[w.name]
			if !ok {
				bound = w.goal
			}
			w.Octets /= 2
			got, err := Run(t, w.Scenario)
			if s := (Score{Result: got, Ratio: w.ofLine(got)}); err != nil || !bound.met(s, w.Scenario) {
				t.Errorf("%s; the bound is %s; %v", s.latencyText(w.Scenario), bound, err)
			}
		})
	}
}
