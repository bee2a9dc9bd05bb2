package hyper

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/pool"
	"gohyper.dev/hyper/internal/wire"
)

// A new connection begins with the limit that the host announced last. That limit is forgotten some
// time after the host's last connection.
func TestNewConnectionBeginsWithTheHostsLastLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{MaxConnsPerHost: 1})
		f.firstPeer(atMost(1))
		f.tr.CloseIdleConnections()
		synctest.Wait()
		one, two := f.get("/1"), f.get("/2")
		peer := f.silentPeer("another connection")
		peer.WantPreface("its beginning")
		peer.WantHeaders("one request", 1)
		peer.Ignore(wire.WindowUpdate)
		peer.WantIdle("and not the other, though SETTINGS are not here")
		peer.WriteSettings(atMost(1))
		peer.WriteSettingsAck()
		peer.WantSettingsAck("SETTINGS")
		answerEmpty(peer, 1)
		peer.WantHeaders("the other request", 3)
		answerEmpty(peer, 3)
		one.wantStatus("the first", 204)
		two.wantStatus("the second", 204)
		f.tr.CloseIdleConnections()
		synctest.Wait()
		hosts := func() int {
			return f.tr.hosts.Len()
		}
		if hosts() != 1 {
			t.Error("the host is forgotten with its last connection")
		}
		time.Sleep(pool.CapacityMemory + time.Second)
		if synctest.Wait(); hosts() != 0 {
			t.Errorf("the host is remembered after %v", pool.CapacityMemory)
		}
	})
}

// A body is not sent before the peer's limits are known.
func TestBodyWaitsForTheSettingsOfANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		call := f.do(f.request(t.Context(), "POST", "/", &openedOnce{Reader: strings.NewReader("once")}))
		peer := f.silentPeer("the first")
		peer.WantPreface("its beginning")
		peer.Ignore(wire.WindowUpdate)
		peer.WantIdle("SETTINGS are not here")
		peer.WriteSettings()
		peer.WriteSettingsAck()
		peer.WantSettingsAck("SETTINGS")
		peer.WantHeaders("the request", 1)
		peer.WantBody("with its body", 1, []byte("once"))
		answerEmpty(peer, 1)
		call.wantStatus("it is served", 204)
	})
}

// The tries of one request are bounded, even if the host accepts other requests in between.
func TestTriesOfOneRequestAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		f.firstPeer()
		h := f.host()
		h.mu.Lock()
		c := h.Conns.All()[0]
		h.mu.Unlock()
		var r retry
		for tries := 1; ; tries++ {
			h.answered(c) // a response to another request
			if _, ok := h.refused(&r, c); !ok {
				if tries != pool.MostTries {
					t.Errorf("%d tries, want %d", tries, pool.MostTries)
				}
				return
			}
		}
	})
}

// The timeout of a request that waited only for a short time does not make the peer suspected.
func TestShortTimeoutIsNoSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		peer := f.firstPeer()
		ctx, cancel := context.WithTimeout(t.Context(), minSilence/2)
		defer cancel()
		call := f.do(f.request(ctx, "GET", "/", nil))
		peer.WantHeaders("the request", 3)
		call.wantErr("its time is over", context.DeadlineExceeded)
		if f.host().Conns.All()[0].suspected.Load() {
			t.Error("the peer is suspected")
		}
		peer.WantRSTStream("the request has ended", 3, wire.Cancel)
	})
}
