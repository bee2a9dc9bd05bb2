package pool

import (
	"context"
	"errors"
	"testing"
)

// place adds a request with the given turn and returns it.
func place(q *Queue[string], turn uint64) *Request[string] { return q.Add(context.Background(), turn) }

// wantResult checks that r was given a result, which is conn or err.
func wantResult(t *testing.T, r *Request[string], conn string, err error) {
	t.Helper()
	select {
	case <-r.Ready():
	default:
		t.Fatal("the request still waits")
	}
	if c, e := r.Result(); c != conn || e != err {
		t.Fatalf("the request got %q and error %v, want %q and %v", c, e, conn, err)
	}
}

func TestQueueServesRequestsInTheOrderOfTheirTurns(t *testing.T) {
	var q Queue[string]
	first, second := q.Turn(0), q.Turn(0)
	if again := q.Turn(first); again != first || q.turns != second {
		t.Fatalf("turn %d became %d, and the last one is %d", first, again, q.turns)
	}
	if !q.Empty() || !q.IsNext(second) {
		t.Fatal("an empty queue has a first request")
	}
	b := place(&q, second)
	if !q.IsNext(first) || q.IsNext(q.Turn(0)) {
		t.Fatal("a request with a later turn is the next one")
	}
	a := place(&q, first) // it returns with its old turn
	if q.Len() != 2 || q.At(0) != a || q.At(1) != b || a.Ctx == nil {
		t.Fatal("the request that came first is not the first one")
	}
	q.Pop("one", nil)
	wantResult(t, a, "one", nil)
	q.Pop("two", nil)
	wantResult(t, b, "two", nil)
	if q.waiting != nil {
		t.Error("an empty queue keeps its memory")
	}
}

func TestQueueForgetsRequestsThatLeave(t *testing.T) {
	var q Queue[string]
	a, b := place(&q, q.Turn(0)), place(&q, q.Turn(0))
	if !q.Remove(a) || q.Remove(a) || q.At(0) != b {
		t.Fatal("Remove removes a request once")
	}
	if !q.Remove(b) || q.waiting != nil {
		t.Fatal("an empty queue keeps its memory")
	}
}

func TestQueueFailsTheRequestsUpToATurn(t *testing.T) {
	var q Queue[string]
	gone := errors.New("no connection")
	a, b, c, d := place(&q, q.Turn(0)), place(&q, q.Turn(0)), place(&q, q.Turn(0)), place(&q, q.Turn(0))
	q.fail(2, gone)
	wantResult(t, a, "", gone)
	wantResult(t, b, "", gone)
	if q.Len() != 2 {
		t.Fatalf("%d requests wait, want 2", q.Len())
	}
	q.failAll(gone)
	wantResult(t, c, "", gone)
	wantResult(t, d, "", gone)
}
