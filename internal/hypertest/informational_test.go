// This file tests interim responses and Request.Informational.

package hypertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

func TestInterimResponsesAreShownInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var seen []string
		got := doAsync(t.Context(), conn, &hyper.Request{Informational: func(status int,
			header hyper.Header) error {
			seen = append(seen, fmt.Sprint(status, header))
			return nil
		}})
		peer.WantHeaders("the request", 1)
		// RFC 9110 §15.2: a client must be able to parse a 1xx response that it did not expect.
		peer.WriteHeaders(1, 0, ":status: 100")
		peer.WriteHeaders(1, 0, ":status: 103", "link: </a>")
		synctest.Wait()
		if len(seen) != 2 {
			t.Errorf("seen before the final response: %q", seen)
		}
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 103", "link: </b>", "link: </c>")
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		})
		if resp := got.Want(t, "the response"); resp.StatusCode != 200 || len(resp.Header) != 0 {
			t.Errorf("status %d, header %v", resp.StatusCode, resp.Header)
		}
		want := []string{"100 []", "103 [{link </a> false}]", "103 [{link </b> false} {link </c> false}]"}
		if !slices.Equal(seen, want) {
			t.Errorf("seen %q, want %q", seen, want)
		}
	})
}

func TestInformationalErrorEndsTheRequest(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
				peer.Ignore(wire.WindowUpdate)
				stop := errors.New("seen enough")
				got := doAsync(t.Context(), conn, &hyper.Request{Informational: func(int,
					hyper.Header) error {
					return stop
				}})
				peer.WantHeaders("the request", 1)
				peer.Batch(func() {
					peer.WriteHeaders(1, 0, ":status: 103")
					if whole {
						peer.WriteHeaders(1, 0, ":status: 200")
						peer.WriteData(1, wire.EndStream, []byte("this is not read"))
					}
				})
				if err := got.WantErr(t, "the callback's error"); !errors.Is(err, stop) {
					t.Errorf("got %v", err)
				}
				if !whole {
					peer.WantRSTStream("the caller wants no more", 1, wire.Cancel)
				}
				peer.WantIdle("nothing else")
				h2test.WantFullCredit(t, peer, "the body cannot be read any more")
			})
		})
	}
}

func TestInformationalErrorStaysWithTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		stop := errors.New("seen enough")
		s, _ := conn.Open(t.Context(), &hyper.Request{Informational: func(int,
			hyper.Header) error {
			return stop
		}})
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 103")
			peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		})
		for range 2 {
			if _, err := s.Response(t.Context()); !errors.Is(err, stop) {
				t.Errorf("Response: %v", err)
			}
		}
		peer.WantRSTStream("our side is still open", 1, wire.Cancel)
	})
}

// Informational may panic, for example in a handler that passes the response on, and a caller may
// recover from that. It may also call runtime.Goexit, as a test does that fails.
func TestPanicOfInformationalIsTheCallers(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("own") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, &hyper.Config{WindowManager: giveBack})
				peer.Ignore(wire.WindowUpdate)
				req := &hyper.Request{Informational: func(int, hyper.Header) error { end(); return nil }}
				for i, whole := range []bool{false, true} {
					var caught any
					done := make(chan struct{})
					go func() {
						defer close(done)
						defer func() { caught = recover() }()
						conn.Do(context.Background(), req)
					}()
					id := uint32(2*i + 1)
					peer.WantHeaders("the request", id)
					peer.Batch(func() {
						peer.WriteHeaders(id, 0, ":status: 103")
						if whole {
							peer.WriteHeaders(id, 0, ":status: 200")
							peer.WriteData(id, wire.EndStream, []byte("this is not read"))
						}
					})
					if <-done; (caught != nil) != (name == "panic") {
						t.Errorf("caught %v", caught)
					}
					if !whole {
						peer.WantRSTStream("no call waits for the response", id, wire.Cancel)
					}
				}
				got := getAsync(conn, "/")
				peer.WantHeaders("the next request", 5)
				peer.WriteHeaders(5, wire.EndStream, ":status: 200")
				got.Want(t, "the connection is as it was")
				h2test.WantFullCredit(t, peer, "the body cannot be read any more")
			})
		})
	}
}

// As with net/http, the body is sent when the caller's Informational has accepted 100 (Continue).
// It is not sent if Informational returns an error.
func TestBodyWaitsUntilTheCallback100Returns(t *testing.T) {
	for _, refused := range []error{nil, errors.New("seen enough")} {
		t.Run(fmt.Sprint(refused), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := dialPeer(t, nil)
				answer := make(chan error)
				got := doAsync(t.Context(), conn, &hyper.Request{
					Method: "POST", Header: hyper.Header{{Name: "expect", Value: "100-continue"}},
					Body:          strings.NewReader("hello"),
					Informational: func(int, hyper.Header) error { return <-answer },
				})
				peer.WantHeaders("the request", 1)
				peer.WriteHeaders(1, 0, ":status: 100")
				peer.WantIdle("the caller has not said what it thinks of it")
				if answer <- refused; refused != nil {
					peer.WantRSTStream("the caller wants no more", 1, wire.Cancel)
					got.WantErr(t, "the callback's error")
					return
				}
				peer.WantBody("it may go", 1, []byte("hello"))
				peer.WriteHeaders(1, wire.EndStream, ":status: 200")
				got.Want(t, "the response")
			})
		})
	}
}

// The headers of several responses share one block of memory. A field that is added to one header
// must not change the next one.
func TestAddedFieldsStayWithTheirResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		var responses []*hyper.Response
		for id := uint32(1); id < 20; id += 2 {
			got := getAsync(conn, "/")
			peer.WantHeaders("the request", id)
			peer.WriteHeaders(id, wire.EndStream, ":status: 200", "a: 1", "b: 2")
			responses = append(responses, got.Want(t, "the response"))
		}
		for _, resp := range responses {
			resp.Header.Add("c", "3")
		}
		for _, resp := range responses {
			if want := (hyper.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"},
				{Name: "c", Value: "3"}}); !slices.Equal(resp.Header, want) {
				t.Errorf("stream %d: %v", resp.StreamID, resp.Header)
			}
		}
	})
}

// An interim response is not shown after the caller has ended its stream.
func TestInterimResponseIsNotShownBehindReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		s, _ := conn.Open(t.Context(), &hyper.Request{Informational: func(status int, _ hyper.Header) error {
			t.Errorf("%d was shown", status)
			return nil
		}})
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 103")
		synctest.Wait()
		s.Reset(hyper.ErrCodeCancel)
		if _, err := s.Response(t.Context()); !errors.Is(err, hyper.ErrCanceled) {
			t.Errorf("Response: %v", err)
		}
	})
}

// A body that was read to its end is read without the lock, but still returns ErrClosed after
// Close.
func TestWholeBodyAnswersErrClosedBehindClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		got := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		peer.Batch(func() {
			peer.WriteHeaders(1, 0, ":status: 200")
			peer.WriteData(1, wire.EndStream, []byte("hello"))
		})
		body := got.Want(t, "the response").Body
		h2test.WantBody(t, "the body", body, "hello")
		h2test.WantBody(t, "and its end, again", body, "")
		conn.Close()
		if n, err := body.Read(make([]byte, 1)); n != 0 || err != hyper.ErrClosed {
			t.Errorf("Read: %d, %v", n, err)
		}
	})
}
