package hyper

import (
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper/internal/wire"
)

// When the stream identifiers are used up (RFC 9113 §5.1.1), OnConn is told and Draining is closed.
func TestLastStreamIdentifierBeginsDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events eventLog
		f := newFarm(t, &Transport{OnConn: events.add})
		first := f.get("/1")
		peer := f.peer("the first request")
		c := f.tr.Conns()[0].Conn
		c.lock()
		c.streams.nextID = wire.MaxStreamID - 2
		c.unlock()
		if n := c.Available(); n != 2 {
			t.Errorf("%d are available, want 2", n)
		}
		second := f.get("/2")
		synctest.Wait()
		select {
		case <-c.Draining():
			t.Error("Draining is closed before the last identifier is used")
		default:
		}
		third := f.get("/3")
		<-c.Draining()
		if n := c.Available(); n != 0 {
			t.Errorf("%d are available, want 0", n)
		}
		synctest.Wait()
		events.want(t, "opened", "draining exhausted")
		fourth := f.get("/4")
		other := f.peer("the fourth request")
		peer.Ignore(wire.Headers)
		for _, id := range []uint32{1, wire.MaxStreamID - 2, wire.MaxStreamID} {
			peer.WriteHeaders(id, wire.EndStream, ":status: 204")
		}
		other.WriteHeaders(1, wire.EndStream, ":status: 204")
		for _, call := range []*call{first, second, third, fourth} {
			call.wantStatus("a response", 204)
		}
		synctest.Wait()
		events.want(t, "opened", "draining exhausted", "opened", "closed exhausted")
		f.tr.CloseIdleConnections()
	})
}
