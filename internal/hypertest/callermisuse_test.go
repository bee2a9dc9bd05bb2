// This file tests that a wrong use of a hyper.Caller concerns its own exchanges alone.

package hypertest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A lateUser uses responses long after their exchanges.
type lateUser struct {
	mu        sync.Mutex
	responses []*hyper.Response
	uses      atomic.Int64
	found     atomic.Int64 // uses that returned ErrReused
}

// add adds a response, which takes the place of an earlier one.
func (u *lateUser) add(resp *hyper.Response) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.responses) < 20 {
		u.responses = append(u.responses, resp)
	} else {
		u.responses[rand.IntN(len(u.responses))] = resp
	}
}

// use uses one of the responses in one of many ways.
func (u *lateUser) use(ctx context.Context) {
	u.mu.Lock()
	if len(u.responses) == 0 {
		u.mu.Unlock()
		return
	}
	resp := u.responses[rand.IntN(len(u.responses))]
	u.mu.Unlock()
	s, err := resp.Stream(), error(nil)
	s.SetDeadline(time.Now().Add(time.Millisecond)) // no use takes long
	switch rand.IntN(12) {
	case 0:
		_, err = resp.Body.Read(make([]byte, 100))
	case 1:
		err = resp.Body.Close()
	case 2:
		_, err = resp.Raw().Read(make([]byte, 100))
	case 3:
		s.Reset(hyper.ErrCodeCancel)
	case 4:
		_, err = s.Write([]byte("late"))
	case 5:
		err = s.CloseWrite()
	case 6:
		err = s.SendTrailers(hyper.Header{{Name: "late", Value: "1"}})
	case 7:
		_, err = s.Response(ctx)
	case 8:
		err = s.SetPriority(hyper.Priority{Urgency: 1})
	case 9:
		err = s.NetConn().Close()
	case 10:
		s.Done()
		s.Stats()
		resp.Trailer()
		err = s.Err()
	case 11:
		for _, err = range resp.Pushes(ctx) {
		}
	}
	s.SetDeadline(time.Time{})
	u.uses.Add(1)
	if errors.Is(err, hyper.ErrReused) {
		u.found.Add(1)
	}
}

// Uses of earlier exchanges at any time, from other goroutines, may end exchanges of that Caller.
// They concern no other exchange of the connection, and after them the Callers work as before.
func TestUseOfEarlierExchangesConcernsNoOthers(t *testing.T) {
	if h2test.Race {
		t.Skip("the race detector reports these uses")
	}
	conn := cannedConn(t, &hyper.Config{Authority: "example.com"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	whole := func(resp *hyper.Response, err error) error {
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n != 1024 {
			err = io.ErrUnexpectedEOF
		}
		resp.Body.Close()
		return err
	}
	var wrong, right sync.WaitGroup
	var users [3]lateUser
	done := make(chan struct{})
	callers := make([]*hyper.Caller, 2*len(users))
	for i := range callers {
		k, u := &hyper.Caller{Conn: conn}, &users[i/2]
		callers[i] = k
		right.Go(func() {
			for j := range 500 {
				var resp *hyper.Response
				var err error
				switch j % 3 {
				case 0:
					resp, err = k.Get(ctx, "/")
				case 1:
					resp, err = k.Do(ctx, &hyper.Request{Method: "POST", Body: strings.NewReader("a body")})
				case 2:
					var s *hyper.Stream
					if s, err = k.Open(ctx, &hyper.Request{Method: "POST"}); err == nil {
						s.Write([]byte("a part"))
						s.CloseWrite()
						if resp, err = s.Response(ctx); err != nil {
							s.Reset(hyper.ErrCodeCancel)
						}
					}
				}
				if err == nil {
					u.add(resp)
				}
				whole(resp, err) // an error is allowed: a late use may have caused it
			}
		})
	}
	for range 2 {
		right.Go(func() {
			for range 500 {
				if err := whole(conn.Get(ctx, "/")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range users {
		wrong.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					users[i].use(ctx)
					time.Sleep(20 * time.Microsecond) // leave the processor to the others
				}
			}
		})
	}
	right.Wait()
	close(done)
	wrong.Wait()
	for _, k := range callers {
		for range 3 {
			if err := whole(k.Get(ctx, "/")); err != nil {
				t.Error(err)
			}
		}
	}
	uses, found := int64(0), int64(0)
	for i := range users {
		uses, found = uses+users[i].uses.Load(), found+users[i].found.Load()
	}
	if conn.Err() != nil || found == 0 {
		t.Errorf("%v; %d of %d uses were found", conn.Err(), found, uses)
	}
	if stats := conn.Stats(); stats.StreamsOpen != 0 {
		t.Errorf("%d streams are open", stats.StreamsOpen)
	}
	t.Logf("%d of %d uses were found", found, uses)
}
