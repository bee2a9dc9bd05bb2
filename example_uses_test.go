package hyper_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// scripted makes a connection to a scripted peer. Use it inside synctest.Test.
func scripted(t *testing.T, cfg hyper.Config) (*h2test.Peer, *hyper.Conn) {
	t.Helper()
	client, server := h2test.Pipe()
	peer := h2test.NewPeer(t, server)
	cfg.KeepAlive = -1
	conn, err := hyper.NewConn(context.Background(), client, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	peer.Handshake()
	return peer, conn
}

// answered sends req, responds to it on stream id, and returns the response.
func answered(t *testing.T, peer *h2test.Peer, conn *hyper.Conn, id uint32, req *hyper.Request,
	fields ...string) *hyper.Response {
	t.Helper()
	var resp *hyper.Response
	done := make(chan error)
	go func() {
		var err error
		resp, err = conn.Do(t.Context(), req)
		done <- err
	}()
	peer.WantHeaders("the request", id)
	peer.WriteHeaders(id, 0, append([]string{":status: 200"}, fields...)...)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return resp
}

// fill sends what the windows allow on a stream, but at most most bytes. It returns how many it
// sent.
func fill(peer *h2test.Peer, id uint32, most int) (sent int) {
	for {
		synctest.Wait()
		n := min(peer.Credit(0), peer.Credit(id), 16384, most-sent)
		if n <= 0 {
			return sent
		}
		peer.WriteData(id, 0, make([]byte, n))
		sent += n
	}
}

func readAll(t *testing.T, body io.Reader, n int) {
	t.Helper()
	if got, err := io.ReadFull(body, make([]byte, n)); err != nil {
		t.Fatalf("read %d of %d octets: %v", got, n, err)
	}
}

func TestHalvesMovesAtHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := scripted(t, hyper.Config{WindowManager: Halves})
		resp := answered(t, peer, conn, 1, &hyper.Request{})
		peer.WriteData(1, 0, make([]byte, 16384))
		peer.WriteData(1, 0, make([]byte, 16384))
		readAll(t, resp.Body, 32766)
		peer.WantIdle("less than half was read")
		readAll(t, resp.Body, 2)
		peer.WantWindowUpdate("half of it was read", 0, 32769)
		peer.WantWindowUpdate("and of the stream's", 1, 32769)
	})
}

func TestValveStopsAStreamAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 64 << 10
		peer, conn := scripted(t, hyper.Config{InitialStreamWindow: size})
		peer.Ignore(wire.WindowUpdate, wire.Ping)
		valve := &Valve{Size: size}
		held := answered(t, peer, conn, 1, &hyper.Request{WindowManager: valve.Window})
		other := answered(t, peer, conn, 3, &hyper.Request{})
		go io.Copy(io.Discard, held.Body)
		go io.Copy(io.Discard, other.Body)
		if n := fill(peer, 1, 1<<20); n != 1<<20 {
			t.Fatalf("open, it let %d octets through", n)
		}
		valve.Shut()
		if n := fill(peer, 1, 1<<20); n > size {
			t.Errorf("shut, it let %d octets through", n)
		}
		time.Sleep(time.Hour)
		if n := fill(peer, 1, 1); n != 0 {
			t.Error("it opened by itself")
		}
		if n := fill(peer, 3, 4<<20); n != 4<<20 {
			t.Errorf("the other stream got %d octets", n)
		}
		valve.Open()
		if n := fill(peer, 1, 1<<20); n != 1<<20 {
			t.Errorf("open again, it let %d octets through", n)
		}
	})
}

func TestBudgetHoldsForAllConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total, each, conns = 1 << 20, 400 << 10, 5
		budget := NewBudget(total, each)
		var peers [conns]*h2test.Peer
		var all [conns]*hyper.Conn
		var bodies [conns]io.ReadCloser
		var held [conns]int
		for i := range conns {
			peers[i], all[i] = scripted(t, hyper.Config{WindowManager: budget.Window,
				InitialStreamWindow: 1 << 20})
			peers[i].Ignore(wire.WindowUpdate, wire.Ping)
			bodies[i] = answered(t, peers[i], all[i], 1, &hyper.Request{}).Body
		}
		send := func(i int) int {
			n := fill(peers[i], 1, 1<<20)
			held[i] += n
			sum := 0
			for k := range conns {
				sum += held[k] + max(0, peers[k].Credit(0))
			}
			if sum > total+conns*wire.InitialWindow {
				t.Fatalf("%d octets are held or promised", sum)
			}
			return n
		}
		for i := range conns {
			send(i)
		}
		if held[0] != each || held[conns-1] >= each {
			t.Errorf("%v octets are held: the budget was not used, or had no end", held)
		}
		poor := conns - 1
		if n := send(poor); n != 0 {
			t.Errorf("%d more octets, though the budget is used up", n)
		}
		// The first connection reads, which frees memory for those that wait.
		readAll(t, bodies[0], held[0])
		held[0] = 0
		if n := send(poor); n == 0 {
			t.Error("nothing came of what another connection has read")
		}
		all[1].Close() // frees what it held
		held[1] = 0
		peers[1].Ignore(wire.GoAway)
		got := 0
		for range 10 {
			n := held[poor]
			readAll(t, bodies[poor], n)
			held[poor] = 0
			got += send(poor)
		}
		if got < 10*each*3/4 {
			t.Errorf("with memory free a connection got %d octets in ten turns, want about %d", got, 10*each)
		}
	})
}

func TestFirstComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := scripted(t, hyper.Config{WindowManager: FirstComesWindow, InitialStreamWindow: -1})
		peer.Ignore(wire.WindowUpdate, wire.RSTStream)
		var resps []*hyper.Response
		for i := range 4 {
			resps = append(resps, answered(t, peer, conn, uint32(2*i+1), &hyper.Request{}))
		}
		for i, resp := range resps {
			id := uint32(2*i + 1)
			if n := fill(peer, id, 100_000); n != 100_000 {
				t.Fatalf("stream %d got %d octets when it was its turn", id, n)
			}
			for later := id + 2; later < 9; later += 2 {
				if n := peer.Credit(later); n != 0 {
					t.Fatalf("stream %d may send %d octets before stream %d is done", later, n, id)
				}
			}
			readAll(t, resp.Body, 100_000)
			if i == 1 {
				resp.Body.Close() // a turn can end early
				continue
			}
			peer.WriteData(id, wire.EndStream, nil)
			io.ReadAll(resp.Body)
		}
	})
}

func TestOneByteIsOneByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := scripted(t, hyper.Config{WindowManager: OneOctet, InitialStreamWindow: 1})
		resp := answered(t, peer, conn, 1, &hyper.Request{})
		if n := peer.Credit(0); n != 64<<20 {
			t.Errorf("the connection's window is %d", n)
		}
		for range 100 {
			if n := peer.Credit(1); n != 1 {
				t.Fatalf("the peer may send %d octets", n)
			}
			peer.WriteData(1, 0, []byte("x"))
			peer.WantIdle("it is not read yet")
			readAll(t, resp.Body, 1)
			peer.WantWindowUpdate("the next one", 1, 1)
		}
	})
}

func TestByLengthSendsNoUselessUpdate(t *testing.T) {
	for _, c := range []struct{ length, update int }{{0, 0}, {65534, 0}, {65535, 1},
		{1 << 20, 1<<20 + 1 - 65535}} {
		t.Run(fmt.Sprint(c.length), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := scripted(t, hyper.Config{WindowManager: ByLength})
				resp := answered(t, peer, conn, 1, &hyper.Request{}, fmt.Sprint("content-length: ", c.length))
				if c.update > 0 {
					peer.WantWindowUpdate("what is due, and an octet for END_STREAM", 1, c.update)
				}
				go io.Copy(io.Discard, resp.Body)
				if n := fill(peer, 1, c.length); n != c.length {
					t.Errorf("%d of %d octets", n, c.length)
				}
				peer.WriteData(1, wire.EndStream, nil)
				peer.WantIdle("and nothing else")
			})
		})
	}
}

func TestPlayerIsKeptAheadAndNotMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, chunk = 1 << 20, 32 << 10
		peer, conn := scripted(t, hyper.Config{InitialStreamWindow: 64 << 10})
		peer.Ignore(wire.WindowUpdate)
		player := &Player{PerSecond: rate, Ahead: 2 * time.Second}
		resp := answered(t, peer, conn, 1, &hyper.Request{WindowManager: player.Window})
		go io.CopyBuffer(struct{ io.Writer }{player}, resp.Body, make([]byte, chunk))
		sent := 0
		for s := range 60 {
			for range 10 {
				sent += fill(peer, 1, 100<<20)
				level := player.Level()
				if level > 2*rate+chunk {
					t.Fatalf("after %d s %d octets are loaded", s, level)
				}
				if s > 2 && level < rate {
					t.Fatalf("after %d s only %d octets are loaded: the film will stop", s, level)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		if want := int64(62 * rate); int64(sent) < want*95/100 || int64(sent) > want*105/100 {
			t.Errorf("%d octets in a minute, want about %d", sent, want)
		}
		resp.Body.Close()
	})
}

func TestRateIsSharedByItsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size, initial = 1 << 20, 64 << 10, 32 << 10
		peer, conn := scripted(t, hyper.Config{InitialStreamWindow: initial})
		peer.Ignore(wire.WindowUpdate)
		shared := &Rate{PerSecond: rate, Size: size}
		ids := []uint32{1, 3, 5, 7}
		for _, id := range ids {
			resp := answered(t, peer, conn, id, &hyper.Request{WindowManager: shared.Window})
			go io.Copy(io.Discard, resp.Body)
		}
		sent := map[uint32]int{}
		total := 0
		const seconds = 10
		for ms := range 1000 * seconds {
			for _, id := range ids {
				n := fill(peer, id, 1<<20)
				sent[id] += n
				total += n
			}
			if most := len(ids)*initial + size + int(int64(rate)*int64(ms+1)/1000); total > most {
				t.Fatalf("%d bytes in %d ms, want at most %d", total, ms+1, most)
			}
			time.Sleep(time.Millisecond)
		}
		if total < rate*seconds*9/10 {
			t.Errorf("%d bytes in %d s, want about %d", total, seconds, rate*seconds)
		}
		for _, id := range ids {
			if 8*sent[id] < total {
				t.Errorf("stream %d got %d of %d bytes", id, sent[id], total)
			}
		}
	})
}
