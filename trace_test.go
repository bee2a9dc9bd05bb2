package hyper

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// tracedEvents returns a Trace function that appends to events.
func tracedEvents(events *[]TraceEvent) func(TraceEvent) {
	var mu sync.Mutex
	return func(e TraceEvent) {
		mu.Lock()
		defer mu.Unlock()
		*events = append(*events, e)
	}
}

func TestTraceEventsKeepTheirFieldsAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []TraceEvent
		peer, conn := dialPeer(t, &Config{Trace: tracedEvents(&events)},
			wire.Setting{ID: wire.SettingHeaderTableSize, Value: 0})
		synctest.Wait()
		events = nil
		at := time.Since(conn.start)
		for id := uint32(1); id < 7; id += 2 {
			got := getAsync(conn, fmt.Sprint("/", id))
			peer.WantHeaders("the request", id)
			time.Sleep(time.Second)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", fmt.Sprint("x-id: ", id))
			got.want(t, "the response")
		}
		for i, e := range events {
			id := uint32(1 + i/2*2)
			field, value := ":path", fmt.Sprint("/", id)
			if !e.Sent {
				field, value = "x-id", fmt.Sprint(id)
			}
			if e.Sent != (i%2 == 0) || e.StreamID != id || e.Fields.Get(field) != value ||
				e.Time != at+time.Duration((i+1)/2)*time.Second {
				t.Errorf("event %d at %v: %v %v", i, e.Time, e, e.Fields)
			}
		}
		if len(events) != 6 {
			t.Errorf("%d events", len(events))
		}
	})
}
