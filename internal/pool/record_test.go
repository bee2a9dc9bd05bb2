package pool

import (
	"testing"
	"testing/synctest"
	"time"
)

// inBubble runs f in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// refuse records n requests that m turns away, each for the first time.
func refuse(r *Record, m *Member, n int, f Fate) (v Verdict) {
	for range n {
		v = r.Refused(new(Tries), m, f)
	}
	return v
}

// A request fails after MaxTries attempts if the host responds to nothing, and after MostTries in
// any case.
func TestRecordLimitsTheTriesOfARequest(t *testing.T) {
	for name, test := range map[string]struct {
		answers bool
		want    int
	}{"the host is silent": {false, MaxTries}, "the host responds to others": {true, MostTries}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRecord()
				var m Member
				var tries Tries
				for n := 1; ; n++ {
					if test.answers {
						r.Answered(&m)
					}
					if v := r.Refused(&tries, &m, Fate{Others: 1}); !v.Again {
						if n != test.want {
							t.Errorf("%d tries, want %d", n, test.want)
						}
						return
					}
				}
			})
		})
	}
}

// The first retry after the end of a connection is sent at once, and also further ones if the
// connection had processed requests. Others have a pause, which doubles.
func TestRecordPausesBetweenRetries(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRecord()
		var tries Tries
		for i, step := range []struct {
			fate  Fate
			least time.Duration
		}{
			{Fate{Ended: true}, 0},
			{Fate{Ended: true}, 100 * time.Millisecond},
			{Fate{Ended: true, Processed: 3}, 0},
			{Fate{Others: 1}, 400 * time.Millisecond},
		} {
			v := r.Refused(&tries, new(Member), step.fate)
			if !v.Again || v.Delay < step.least || v.Delay > step.least*3/2 {
				t.Errorf("try %d: %+v, want a delay from %v", i+1, v, step.least)
			}
		}
	})
}

// A connection is charged once until the next response. When the budget is used up, the retries of
// requests that were retried before wait. With time the budget refills.
func TestRecordPacesRetriesBeyondTheBudget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRecord()
		var m Member
		refuse(&r, &m, 10, Fate{Others: 1})
		if r.Left() != RetryBurst-1 {
			t.Errorf("%d are left", r.Left())
		}
		r.Answered(&m)
		refuse(&r, &m, 10, Fate{Others: 1})
		if r.Left() != RetryBurst-1 {
			t.Errorf("%d are left after a response and another cause", r.Left())
		}
		for range RetryBurst - 1 {
			refuse(&r, new(Member), 1, Fate{Ended: true})
		}
		for i := 1; i <= 20; i++ {
			tries := Tries{n: 1}
			v := r.Refused(&tries, new(Member), Fate{Ended: true, Processed: 1})
			if want := time.Duration(i) * time.Second / retryRate; v.Delay != want {
				t.Errorf("event %d beyond the budget waits for %v, want %v", i, v.Delay, want)
			}
		}
		time.Sleep(time.Minute)
		if v := refuse(&r, new(Member), 1, Fate{Ended: true}); v.Delay != 0 {
			t.Errorf("the budget does not refill: a wait of %v", v.Delay)
		}
	})
}

// The number of streams that a host refused is not tried again at once. It doubles with time until
// it is as high as the limit in SETTINGS.
func TestRecordLearnsTheNumberOfStreams(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRecord()
		var m Member
		want := func(reason string, streams int) {
			t.Helper()
			if r.capacity.streams != streams || r.isLearned() != (streams > 0) {
				t.Errorf("%s: %d streams, want %d", reason, r.capacity.streams, streams)
			}
		}
		want("at first", 0)
		refuse(&r, &m, 1, Fate{Others: 8})
		want("refused beside 8", 8)
		refuse(&r, &m, 1, Fate{Others: 9})
		want("refused beside more", 8)
		refuse(&r, &m, 1, Fate{Others: 5})
		want("refused beside fewer", 5)
		refuse(&r, &m, 1, Fate{})
		want("refused alone", 1)
		r.Answered(&m)
		want("a response at once", 1)
		for _, streams := range []int{2, 4, 8, 16} {
			time.Sleep(CapacityDoubles)
			r.Answered(&m)
			want("responses for a while", streams)
		}
		r.Limit = 20
		time.Sleep(CapacityDoubles)
		r.Answered(&m)
		want("the limit in SETTINGS", 0)
		r.Limit = 0
		refuse(&r, &m, 1, Fate{Others: capacityForgets / 2})
		time.Sleep(CapacityDoubles)
		r.Answered(&m)
		want("a limit that does not matter", 0)
		refuse(&r, &m, 1, Fate{Others: 3})
		if !r.Grow() {
			t.Error("the limit is forgotten at once")
		}
		want("no time has passed", 3)
		time.Sleep(CapacityDoubles)
		if !r.Grow() {
			t.Error("the limit is forgotten")
		}
		want("no responses for a while", 6)
		r.Limit = 10
		time.Sleep(CapacityDoubles)
		if r.Grow() {
			t.Error("there is a limit beside that in SETTINGS")
		}
		want("the limit in SETTINGS", 0)
	})
}

// A connection gets as many requests as the last one processed before its GOAWAY, and one more at a
// time to find out whether it continues.
func TestRecordLearnsTheNumberOfRequests(t *testing.T) {
	r := newRecord()
	var first Member
	if r.Opened(&first); first.quota != 0 || first.allowed() != 0 || first.answers > 0 {
		t.Fatal("the first connection has a quota")
	}
	refuse(&r, &first, 1, Fate{Ended: true, Processed: capacityForgets})
	if r.isLearned() {
		t.Error("a limit was learned that does not matter")
	}
	refuse(&r, &first, 1, Fate{Ended: true, Processed: 2})
	var m Member
	r.Opened(&m)
	if m.quota == 0 || m.allowed() != 2 || !r.isLearned() {
		t.Fatalf("%d requests are allowed, want 2", m.allowed())
	}
	if r.Answered(&m) {
		t.Error("the first response makes room")
	}
	if !r.Answered(&m) || m.allowed() != 3 || m.answers == 0 {
		t.Errorf("after as many responses %d requests are allowed, want one more", m.allowed())
	}
	if r.Answered(&m); m.allowed() != 4 {
		t.Errorf("%d requests are allowed, want twice as many", m.allowed())
	}
	for range capacityForgets {
		r.Answered(&m)
	}
	if m.quota > 0 || r.isLearned() {
		t.Errorf("after many responses %d requests are allowed", m.allowed())
	}
}

// A connection that refuses streams that are alone on it is replaced once.
func TestRecordReplacesAConnectionThatRefusesEverything(t *testing.T) {
	r := newRecord()
	var m Member
	if refuse(&r, &m, 1, Fate{}).Replace || !refuse(&r, &m, 1, Fate{}).Replace {
		t.Error("it is replaced after the second refusal")
	}
	r.Replaced()
	var next Member
	if refuse(&r, &next, 5, Fate{}).Replace {
		t.Error("the next one is no better, and is replaced")
	}
	r.Answered(&next)
	if refuse(&r, &next, 2, Fate{Others: 1}).Replace {
		t.Error("a connection with other streams is replaced")
	}
}

// Connections that end without a response delay the next dial, from the second one on.
func TestRecordPausesDials(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRecord()
		pause := func(want time.Duration) {
			t.Helper()
			if got := r.DialPause(); got != want {
				t.Errorf("a pause of %v, want %v", got, want)
			}
		}
		r.useless()
		pause(0)
		for want := 50 * time.Millisecond; want < MaxDialPause; want *= 2 {
			r.useless()
			pause(want)
		}
		for range 100 {
			r.useless()
		}
		pause(MaxDialPause)
		r.Answered(new(Member))
		r.useless()
		time.Sleep(MaxDialPause + time.Second)
		pause(0)
		r.pauseDials(time.Second)
		pause(time.Second)
	})
}

func TestRecordIsRememberedForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRecord()
		want := func(reason string, want time.Duration) {
			t.Helper()
			if got := max(0, r.remembered(100)); got != want {
				t.Errorf("%s: %v, want %v", reason, got, want)
			}
		}
		want("at first", 0)
		r.lost(100)
		want("a limit that is not worth it", 0)
		r.lost(99)
		want("a limit", CapacityMemory)
		time.Sleep(time.Minute)
		want("a minute later", CapacityMemory-time.Minute)
		r.lost(0)
		r.pauseDials(time.Second)
		want("a pause", time.Second)
		refuse(&r, new(Member), 1, Fate{})
		want("a capacity", CapacityMemory)
	})
}
