package wait

import (
	"context"
	"slices"
	"testing"
)

// Each byte is a call. A slice of Waiters is the model of the queue.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 0, 1, 2, 0, 3, 5, 0, 4})
	f.Fuzz(func(t *testing.T, calls []byte) {
		var q Queue
		var spares Spares
		var model []*Waiter
		for _, call := range calls {
			switch at := int(call / 6); call % 6 {
			case 0:
				w := spares.Get()
				q.Push(w)
				model = append(model, w)
			case 1:
				w := spares.Get()
				q.PushFront(w)
				model = slices.Insert(model, 0, w)
			case 2: // a call that stops waiting
				if len(model) > 0 {
					at %= len(model)
					spares.Put(&q, model[at])
					model = slices.Delete(model, at, at+1)
				}
			case 3: // the first one is woken, runs, and is kept
				if len(model) > 0 {
					w := q.First()
					q.Remove(w)
					w.Wake()
					w.Wake() // no effect
					if w.Wait(context.Background(), nil) != Woken {
						t.Fatal("a woken Waiter was not woken")
					}
					spares.Put(&q, w)
					model = model[1:]
				}
			case 4:
				q.WakeAll()
				for _, w := range model {
					if w.Wait(t.Context(), nil) != Woken {
						t.Fatal("WakeAll has not woken a Waiter")
					}
					spares.Put(&q, w)
				}
				model = nil
			case 5: // woken when its context had ended
				if len(model) > 0 {
					at %= len(model)
					model[at].Wake()
					spares.Put(&q, model[at])
					model = slices.Delete(model, at, at+1)
				}
			}
			if got := slices.Collect(q.All()); !slices.Equal(got, model) || q.Len() != len(model) {
				t.Fatalf("%d Waiters in another order than the model's %d", len(got), len(model))
			}
			if q.Empty() != (len(model) == 0) {
				t.Fatalf("Empty is %v with %d Waiters", q.Empty(), len(model))
			}
			if len(model) > 0 && (q.First() != model[0] || q.Last() != model[len(model)-1]) {
				t.Fatal("the first or the last Waiter is another one")
			}
		}
		for range spares.Len() {
			select {
			case <-spares.Get().ready:
				t.Fatal("a Waiter that is used again has been woken already")
			default:
			}
		}
	})
}
