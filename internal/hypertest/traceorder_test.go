// This file tests the order of trace events.

package hypertest

import (
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// Frames that arrive together are reported one by one, each before its effects and after those of
// the frame before it. It is the same with a function that gets the frames, too.
func TestTraceReportsAFrameBeforeItsEffects(t *testing.T) {
	for _, onFrame := range []func(*hyper.Conn, hyper.Frame){nil, func(*hyper.Conn, hyper.Frame) {}} {
		synctest.Test(t, func(t *testing.T) {
			var log eventLog
			cfg := &hyper.Config{Trace: log.add, WindowManager: giveBack}
			if onFrame != nil {
				cfg.Wire = &hyper.Wire{OnFrame: onFrame}
			}
			peer, conn := dialPeer(t, cfg)
			log.take()
			one := getAsync(conn, "/1")
			peer.WantHeaders("the first request", 1)
			three := getAsync(conn, "/3")
			peer.WantHeaders("the second request", 3)
			log.take()
			peer.Batch(func() {
				peer.WriteHeaders(1, 0, ":status: 200")
				peer.WriteData(1, wire.EndStream, []byte("one"))
				peer.WriteHeaders(3, 0, ":status: 200")
				peer.WriteData(3, 0, []byte("th"))
				peer.WriteData(3, wire.EndStream, []byte("ree"))
				peer.WritePing(0, [8]byte{7: 1})
			})
			wantLines(t, "the responses", log.take(),
				"<- HEADERS stream=1 len=1 END_HEADERS",
				"<- DATA stream=1 len=3 END_STREAM",
				"-- window stream=1 by=peer increment=-3 window=65532 conn_window=65532",
				"-- half_closed stream=1 by=peer",
				"-- stream_closed stream=1",
				"<- HEADERS stream=3 len=1 END_HEADERS",
				"<- DATA stream=3 len=2",
				"-- window stream=3 by=peer increment=-2 window=65533 conn_window=65530",
				"<- DATA stream=3 len=3 END_STREAM",
				"-- window stream=3 by=peer increment=-3 window=65530 conn_window=65527",
				"-- half_closed stream=3 by=peer",
				"-- stream_closed stream=3",
				"<- PING len=8 data=0000000000000001",
				"-> PING len=8 ACK data=0000000000000001")
			h2test.WantBody(t, "the first", one.Want(t, "the first").Body, "one")
			h2test.WantBody(t, "the second", three.Want(t, "the second").Body, "three")
		})
	}
}

// A function that takes long for a received frame gets the steps that happen meanwhile afterwards,
// before the frames that they lead to.
func TestTraceReportsWhatHappensDuringASlowCallAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		reached, proceed := make(chan struct{}), make(chan struct{})
		peer, conn := dialPeer(t, &hyper.Config{Trace: func(e hyper.TraceEvent) {
			if !e.Sent && e.Type == "PING" {
				close(reached)
				<-proceed
			}
			log.add(e)
		}})
		log.take()
		peer.WritePing(0, [8]byte{})
		<-reached
		got := getAsync(conn, "/")
		if events := log.take(); len(events) > 0 {
			t.Errorf("during the call, these are reported: %q", lines(events))
		}
		close(proceed)
		peer.WantHeaders("the request", 1)
		peer.WantPing("the acknowledgment", wire.Ack)
		wantLines(t, "after the call", log.take()[:3],
			"<- PING len=8 data=0000000000000000",
			"-- stream_opened stream=1",
			"-- half_closed stream=1 by=us")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.Want(t, "the response")
	})
}

// DATA counts in the connection's window even if the stream refuses it, and the events show that.
func TestTraceReportsTheWindowThatRefusedDataTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log eventLog
		peer, conn := dialPeer(t, &hyper.Config{Trace: log.add, WindowManager: giveBack})
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200", "content-length: 5")
		call.Want(t, "the response")
		log.take()
		peer.WriteData(1, 0, []byte("longer"))
		peer.WantRSTStream("the body is too long", 1, wire.ProtocolError)
		wantLines(t, "the refused DATA", log.take()[:2], "<- DATA stream=1 len=6",
			"-- window by=peer increment=-6 conn_window=65529")
	})
}

// A response is returned before the events of what came with it are reported, also if Config.Trace
// takes long for these.
func TestResponseIsReturnedBeforeASlowTraceOfItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = time.Second
		peer, conn := dialPeer(t, &hyper.Config{Trace: func(e hyper.TraceEvent) {
			if e.Kind == hyper.TraceHalfClosed && !e.Sent {
				time.Sleep(slow)
			}
		}})
		began := time.Now()
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		got.Want(t, "the response")
		if took := time.Since(began); took >= slow {
			t.Errorf("the response took %v", took)
		}
	})
}
