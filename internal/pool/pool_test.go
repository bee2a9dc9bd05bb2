package pool

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A keeper is a host that has to be remembered until a certain time.
type keeper struct {
	use       Use[string]
	until     atomic.Pointer[time.Time] // nil: now
	busy      bool                      // it has connections
	forgotten int
}

func (k *keeper) Use() *Use[string] { return &k.use }
func (k *keeper) Forgotten()        { k.forgotten++ }

func (k *keeper) Remembered() (time.Duration, bool) {
	if until := k.until.Load(); until != nil {
		return time.Until(*until), !k.busy
	}
	return 0, !k.busy
}

// rememberFor sets how long the host has to be remembered.
func (k *keeper) rememberFor(d time.Duration) {
	until := time.Now().Add(d)
	k.until.Store(&until)
}

// enter enters the host for key, which is new if it has no user.
func enter(p *Pool[string, *keeper], key string) *keeper {
	return p.Enter(key, func() *keeper { return &keeper{} })
}

func TestPoolKeepsHostsThatAreUsed(t *testing.T) {
	var p Pool[string, *keeper]
	a, b := enter(&p, "a"), enter(&p, "b")
	if again := enter(&p, "a"); again != a || a == b || p.Users(a) != 2 || p.Len() != 2 {
		t.Fatal("a key has two hosts, or two keys have one")
	}
	p.Leave(b)
	p.Leave(a)
	if !slices.Equal(p.All(), []*keeper{a}) || a.forgotten != 0 || b.forgotten != 1 {
		t.Fatalf("%d hosts are kept, want the one that is used", p.Len())
	}
	p.Leave(a)
	if p.Review(a); p.Len() != 0 || a.forgotten != 1 {
		t.Fatal("a host is kept, or was forgotten twice")
	}
	if next := enter(&p, "a"); next == a {
		t.Fatal("a forgotten host is used again")
	}
	if p.Review(a); p.Len() != 1 {
		t.Fatal("the end of an earlier host removes the next one")
	}
}

func TestPoolKeepsHostsWithConnections(t *testing.T) {
	var p Pool[string, *keeper]
	a := enter(&p, "a")
	a.busy = true
	p.Leave(a)
	if p.Len() != 1 {
		t.Fatal("a host with connections is forgotten")
	}
	a.busy = false
	if p.Review(a); p.Len() != 0 {
		t.Fatal("a host without connections is kept")
	}
}

func TestPoolRemembersHostsForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var p Pool[string, *keeper]
		a := enter(&p, "a")
		a.rememberFor(time.Minute)
		p.Leave(a)
		p.Review(a)
		time.Sleep(30 * time.Second)
		a.rememberFor(time.Minute) // something else has to be remembered
		time.Sleep(time.Minute - time.Nanosecond)
		if synctest.Wait(); p.Len() != 1 {
			t.Error("the host is forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		if synctest.Wait(); p.Len() != 0 {
			t.Error("the host is kept for too long")
		}
	})
}
