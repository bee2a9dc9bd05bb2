package wait

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

func TestQueueKeepsItsOrder(t *testing.T) {
	var q Queue
	var s Spares
	wantOrder := func(want ...*Waiter) {
		t.Helper()
		if got := slices.Collect(q.All()); !slices.Equal(got, want) {
			t.Fatalf("the queue is %p, want %p", got, want)
		}
		if q.Empty() != (len(want) == 0) || q.Len() != len(want) {
			t.Fatalf("Empty is %v, Len %d with %d", q.Empty(), q.Len(), len(want))
		}
		if len(want) > 0 && (q.First() != want[0] || q.Last() != want[len(want)-1]) {
			t.Fatal("First or Last")
		}
	}
	wantOrder()
	if q.First() != nil || q.Last() != nil {
		t.Fatal("an empty queue has a First or Last")
	}
	a, b, c := s.Get(), s.Get(), s.Get()
	q.Push(b)
	q.Push(c)
	q.PushFront(a)
	wantOrder(a, b, c)
	q.Remove(b)
	wantOrder(a, c)
	q.Push(b)
	wantOrder(a, c, b)
	q.Remove(a)
	q.Remove(b)
	wantOrder(c)
	q.Remove(c)
	wantOrder()
	q.PushFront(a)
	wantOrder(a)
	for w := range q.All() {
		if w != a {
			t.Fatal("All")
		}
		break
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Spares
		var q Queue
		ctx, end := context.WithCancel(t.Context())
		canceled := make(chan struct{})
		close(canceled)
		wait := func(ctx context.Context, cancel <-chan struct{}, wake func(*Waiter)) Reason {
			w := s.Get()
			q.Push(w)
			reason := make(chan Reason, 1)
			go func() { reason <- w.Wait(ctx, cancel) }()
			synctest.Wait()
			wake(w)
			defer s.Put(&q, w)
			return <-reason
		}
		none := func(*Waiter) {}
		all := func(*Waiter) { q.WakeAll() }
		twice := func(w *Waiter) { w.Wake(); w.Wake() }
		for name, c := range map[string]struct {
			got, want Reason
		}{
			"without a context":  {wait(context.Background(), nil, all), Woken},
			"with a context":     {wait(ctx, nil, twice), Woken},
			"canceled":           {wait(ctx, canceled, none), Canceled},
			"the context ends":   {wait(ctx, nil, func(*Waiter) { end() }), Ended},
			"ended, then woken":  {wait(ctx, nil, (*Waiter).Wake), Ended},
			"woken without both": {wait(context.Background(), nil, (*Waiter).Wake), Woken},
		} {
			if c.got != c.want {
				t.Errorf("%s: reason %d, want %d", name, c.got, c.want)
			}
		}
		if !q.Empty() {
			t.Error("the queue is not empty")
		}
		if s.Len() != 1 {
			t.Errorf("%d spares, want the one that served all", s.Len())
		}
		w := s.Get()
		if w.Granted || len(w.ready) > 0 || s.Len() != 0 {
			t.Error("a Waiter was not as new")
		}
	})
}

// A Batch takes Waiters off their queues, and wakes them in their order, also those that another
// call uses by then.
func TestBatchWakesWithoutTheLock(t *testing.T) {
	var (
		q, other Queue
		s        Spares
		b        Batch
		list     []*Waiter
	)
	for i := range 6 {
		w := s.Get()
		list = append(list, w)
		if i < 4 {
			q.Push(w)
		} else {
			other.Push(w)
		}
	}
	b.Take(&q)
	b.Take(&other)
	if !q.Empty() || !other.Empty() {
		t.Fatal("a queue is not empty")
	}
	s.Put(&q, list[2]) // the context of its call has ended
	if w := s.Get(); w != list[2] {
		t.Fatal("another Waiter")
	}
	q.Push(list[2])
	b.Wake()
	for i, w := range list {
		if len(w.ready) != 1 || w.after != nil {
			t.Errorf("Waiter %d: woken %d times, after %p", i, len(w.ready), w.after)
		}
	}
	if q.First() != list[2] || b != (Batch{}) {
		t.Errorf("first %p, %+v", q.First(), b)
	}
	b.Wake() // nothing
}

func TestWaitWokenReturnsWhenWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(Spares).Get()
		returned := false
		go func() {
			w.WaitWoken()
			returned = true
		}()
		if synctest.Wait(); returned {
			t.Fatal("it returns without Wake")
		}
		w.Wake()
		if synctest.Wait(); !returned {
			t.Fatal("it still waits")
		}
	})
}
