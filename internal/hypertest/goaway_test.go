package hypertest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// asConnError returns the outermost ConnError in err's chain.
func asConnError(t *testing.T, err error) *hyper.ConnError {
	t.Helper()
	var ce *hyper.ConnError
	if !errors.As(err, &ce) {
		t.Fatalf("%T %v is no ConnError", err, err)
	}
	return ce
}

// A lossAfterGoAway is a way in which a connection ends after the peer's GOAWAY(1, INTERNAL_ERROR,
// "out of memory"), with stream 1 open.
type lossAfterGoAway struct {
	name  string
	lose  func(peer *accepted)
	cause error // what the error must also be
	own   bool  // this side ends the connection, with PROTOCOL_ERROR
}

// lossesAfterGoAway are the cases of the tests of this file.
var lossesAfterGoAway = []lossAfterGoAway{
	{"EOF", func(peer *accepted) { peer.Close() }, io.ErrUnexpectedEOF, false},
	{"RST", func(peer *accepted) {
		peer.client.BreakReadAfter(0, syscall.ECONNRESET)
		peer.WritePing(0, [8]byte{})
	}, syscall.ECONNRESET, false},
	{"WriteError", func(peer *accepted) {
		peer.client.BreakWriteAfter(0, syscall.EPIPE)
		peer.WritePing(0, [8]byte{1}) // its acknowledgment cannot be written
	}, syscall.EPIPE, false},
	{"PingTimeout", func(*accepted) {}, hyper.ErrPingTimeout, false},
	{"WriteStall", func(peer *accepted) {
		peer.client.SetWriteBuffer(0)
		peer.WritePing(0, [8]byte{1})
		for range 100 { // the peer sends frames but reads nothing
			time.Sleep(time.Second)
			peer.WriteWindowUpdate(0, 1000)
		}
	}, hyper.ErrWriteStalled, false},
	{"OwnError", func(peer *accepted) { peer.WriteWindowUpdate(0, 0) }, hyper.ErrCodeProtocol, true},
	{"RaisedGoAway", func(peer *accepted) { peer.WriteGoAway(7, wire.NoError, "") }, hyper.ErrCodeProtocol,
		true},
}

func TestLostConnectionKeepsTheGoAway(t *testing.T) {
	for _, loss := range lossesAfterGoAway {
		t.Run(loss.name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				call := v.get("/")
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.WriteGoAway(1, wire.InternalError, "out of memory")
				synctest.Wait()
				loss.lose(peer)
				err := call.WantErr(t, "the connection is lost")
				wantLoss(t, err, loss.own)
				if !errors.Is(err, loss.cause) {
					t.Errorf("%v is not %v", err, loss.cause)
				}
				if hyper.Retryable(err) {
					t.Errorf("%v is retryable", err)
				}
			})
		})
	}
}

// wantLoss requires that err has the GOAWAY of a lossAfterGoAway. own is that of the case.
func wantLoss(t *testing.T, err error, own bool) {
	t.Helper()
	if !own {
		wantGoAway(t, err, 1, hyper.ErrCodeInternal, "out of memory")
		return
	}
	ce := asConnError(t, err)
	if ce.FromPeer || ce.Code != hyper.ErrCodeProtocol || ce.LastStreamID != 1 ||
		string(ce.Debug) != "out of memory" || !errors.Is(err, hyper.ErrCodeInternal) {
		t.Errorf("%+v, want PROTOCOL_ERROR, and the GOAWAY (1, INTERNAL_ERROR, %q) besides", ce,
			"out of memory")
	}
	wantGoAway(t, ce.Err, 1, hyper.ErrCodeInternal, "out of memory")
}

// wantGoAway requires that err is a ConnError with the peer's GOAWAY.
func wantGoAway(t *testing.T, err error, last uint32, code hyper.ErrCode, debug string) {
	t.Helper()
	ce := asConnError(t, err)
	if !ce.FromPeer || ce.LastStreamID != last || ce.Code != code || string(ce.Debug) != debug {
		t.Errorf("%+v, want the GOAWAY (%d, %v, %q)", ce, last, code, debug)
	}
	if !errors.Is(err, code) {
		t.Errorf("%v is not %v", err, code)
	}
}

// acceptOwn returns a cleartext connection and its peer, for tests of Conn's own methods.
func acceptOwn(t *testing.T) (*accepted, *hyper.Conn) {
	t.Helper()
	peer, conn, client := newPeer(t, nil)
	return &accepted{peer, client}, conn
}

func TestConnErrKeepsTheGoAway(t *testing.T) {
	for _, loss := range append(lossesAfterGoAway,
		lossAfterGoAway{"Close", nil, hyper.ErrClosed, false},
	) {
		t.Run(loss.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, conn := acceptOwn(t)
				call := h2test.Go(func() (*hyper.Response, error) { return conn.Get(t.Context(), "/") })
				peer.Handshake()
				peer.WantHeaders("the request", 1)
				peer.WriteGoAway(1, wire.InternalError, "out of memory")
				synctest.Wait()
				if loss.lose == nil {
					conn.Close()
				} else {
					loss.lose(peer)
				}
				<-conn.Done()
				call.WantErr(t, "the connection is lost")
				err := conn.Err()
				wantLoss(t, err, loss.own)
				if !errors.Is(err, loss.cause) {
					t.Errorf("%v is not %v", err, loss.cause)
				}
				_, err = conn.Get(t.Context(), "/late")
				if loss.lose != nil {
					wantLoss(t, err, loss.own)
				}
				if wantRetryable := loss.lose != nil; hyper.Retryable(err) != wantRetryable {
					t.Errorf("a late request: %v, retryable: %v", err, !wantRetryable)
				}
			})
		})
	}
}

func TestShutdownThatLosesItsConnectionKeepsTheGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := acceptOwn(t)
		call := h2test.Go(func() (*hyper.Response, error) { return conn.Get(t.Context(), "/") })
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		shutdown := h2test.Go(func() (struct{}, error) { return struct{}{}, conn.Shutdown(t.Context()) })
		synctest.Wait()
		peer.WriteGoAway(1, wire.InternalError, "out of memory")
		synctest.Wait()
		peer.Close()
		wantGoAway(t, call.WantErr(t, "the request"), 1, hyper.ErrCodeInternal, "out of memory")
		wantGoAway(t, shutdown.WantErr(t, "Shutdown"), 1, hyper.ErrCodeInternal, "out of memory")
	})
}

func TestLaterGoAwayErasesNothing(t *testing.T) {
	type goAway struct {
		last  uint32
		code  wire.ErrCode
		debug string
	}
	for _, test := range []struct {
		name          string
		first, second goAway
		want          goAway
	}{
		{"debug data", goAway{wire.MaxStreamID, wire.NoError, "maintenance"}, goAway{1, wire.NoError, ""},
			goAway{1, wire.NoError, "maintenance"}},
		{"a code", goAway{1, wire.InternalError, "out of memory"}, goAway{1, wire.NoError, ""},
			goAway{1, wire.InternalError, "out of memory"}},
		{"both have debug data", goAway{3, wire.NoError, "maintenance"},
			goAway{1, wire.InternalError, "out of memory"},
			goAway{1, wire.InternalError, "maintenance; out of memory"}},
		{"the same again", goAway{3, wire.NoError, "maintenance"}, goAway{1, wire.NoError, "maintenance"},
			goAway{1, wire.NoError, "maintenance"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				call := v.send(v.request("POST", "/", nil))
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				peer.WriteGoAway(test.first.last, test.first.code, test.first.debug)
				peer.WriteGoAway(test.second.last, test.second.code, test.second.debug)
				synctest.Wait()
				peer.Close()
				err := call.WantErr(t, "the connection is lost")
				wantGoAway(t, err, test.want.last, hyper.ErrCode(test.want.code), test.want.debug)
			})
		})
	}
}

func TestDebugDataOfManyGoAwaysIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := acceptOwn(t)
		call := h2test.Go(func() (*hyper.Response, error) { return conn.Get(t.Context(), "/") })
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		for i := range 1000 {
			peer.WriteGoAway(1, wire.NoError, string(rune('a'+i%26))+"234567890")
		}
		synctest.Wait()
		peer.Close()
		ce := asConnError(t, call.WantErr(t, "the connection is lost"))
		if n := len(ce.Debug); n < 1000 || n > 4096 {
			t.Errorf("%d octets of debug data are kept", n)
		}
	})
}

// A beginning is the first part of a response. It shows that the request was processed, whatever a
// later RST_STREAM or GOAWAY says about it (RFC 9113 §8.7).
type beginning struct {
	name  string
	push  bool
	write func(peer *accepted)
}

// beginnings are the beginnings of a response.
var beginnings = []beginning{
	{"Interim", false, func(peer *accepted) { peer.WriteHeaders(1, 0, ":status: 103") }},
	{"Continue", false, func(peer *accepted) { peer.WriteHeaders(1, 0, ":status: 100") }},
	{"Header", false, func(peer *accepted) { peer.WriteHeaders(1, 0, ":status: 200") }},
	{"HeaderAndData", false, func(peer *accepted) {
		peer.WriteHeaders(1, 0, ":status: 200")
		peer.WriteData(1, 0, []byte("hello"))
	}},
	{"Promise", true, func(peer *accepted) {
		peer.WritePushPromise(1, 2, ":method: GET", ":scheme: https", ":authority: example.com",
			":path: /pushed")
	}},
}

// refusals are the ways in which a peer says that it has not processed the request on stream 1.
var refusals = map[string]func(peer *accepted){
	"RST":             func(peer *accepted) { peer.WriteRSTStream(1, wire.RefusedStream) },
	"GOAWAY":          func(peer *accepted) { peer.WriteGoAway(0, wire.NoError, "") },
	"GOAWAY, REFUSED": func(peer *accepted) { peer.WriteGoAway(0, wire.RefusedStream, "") },
	"GOAWAY, REFUSED, EOF": func(peer *accepted) {
		peer.WriteGoAway(0, wire.RefusedStream,
			"")
		peer.Close()
	},
}

func TestNothingIsRetryableOnceAResponseBegan(t *testing.T) {
	for _, b := range beginnings {
		for name, refuse := range refusals {
			t.Run(b.name+"/"+name, func(t *testing.T) {
				cfg := hyper.Config{}
				if b.push {
					cfg.Push = &hyper.PushPolicy{}
				}
				eachDoor(t, cfg, func(t *testing.T, v *visit) {
					call := v.send(v.request("POST", "/", nil))
					peer := v.accept()
					peer.WantHeaders("the request", 1)
					b.write(peer)
					refuse(peer)
					resp, err := call.Wait()
					if err == nil {
						_, err = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
					if err == nil || hyper.Retryable(err) {
						t.Errorf("%v is retryable", err)
					}
					synctest.Wait()
					if len(v.peers) > 0 {
						t.Error("the request was sent again")
					}
				})
			})
		}
	}
}

func TestRefusedBeforeAnythingCameIsRetryable(t *testing.T) {
	for name, refuse := range refusals {
		t.Run(name, func(t *testing.T) {
			eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
				if !v.own { // the other doors may send the request again
					return
				}
				call := v.send(v.request("POST", "/", http.NoBody))
				peer := v.accept()
				peer.WantHeaders("the request", 1)
				refuse(peer)
				if err := call.WantErr(t, "it is refused"); !hyper.Retryable(err) {
					t.Errorf("%v is not retryable", err)
				}
			})
		})
	}
}

// The cause of a context may be the error of another request. It does not make this request
// retryable, because this request was sent.
func TestEndOfAContextIsNotRetryableWhateverItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		refused := doAsync(ctx, conn, &hyper.Request{Path: "/refused"})
		peer.WantHeaders("one request", 1)
		sent := doAsync(ctx, conn, &hyper.Request{Path: "/sent"})
		peer.WantHeaders("another one", 3)
		peer.WriteRSTStream(1, wire.RefusedStream)
		err := refused.WantErr(t, "it is refused")
		if !hyper.Retryable(err) {
			t.Errorf("%v is not retryable", err)
		}
		cancel(err)
		if err := sent.WantErr(t, "it is canceled"); hyper.Retryable(err) {
			t.Errorf("%v is retryable", err)
		}
	})
}

// Some peers, such as Go's, respond to our GOAWAY with their own. It adds nothing: the connection
// ended because it was closed, and Err returns ErrClosed.
func TestAnswerToOurGoAwayIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		call := getAsync(conn, "/")
		peer.WantHeaders("the request", 1)
		done := h2test.Go(func() (bool, error) { return true, conn.Shutdown(t.Context()) })
		peer.WantGoAway("Shutdown", 0, wire.NoError)
		peer.WriteGoAway(1, wire.NoError, "")
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		call.Want(t, "the response").Body.Close()
		done.Want(t, "Shutdown")
		if err := conn.Err(); err != hyper.ErrClosed {
			t.Errorf("Err: %v, want ErrClosed", err)
		}
	})
}

// A GOAWAY that arrives after Close does not change the error.
func TestGoAwayAfterCloseIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := acceptOwn(t)
		call := getAsync(conn, "/")
		peer.Handshake()
		peer.WantHeaders("the request", 1)
		peer.client.SetWriteBuffer(0) // our own GOAWAY cannot be written yet
		closed := h2test.Go(func() (bool, error) { return true, conn.Close() })
		call.WantErr(t, "it is closed")
		peer.WriteGoAway(1, wire.InternalError, "late")
		synctest.Wait()
		if err := conn.Err(); err != hyper.ErrClosed {
			t.Errorf("Err while it is closed: %v, want ErrClosed", err)
		}
		closed.Want(t, "Close")
		if err := conn.Err(); err != hyper.ErrClosed {
			t.Errorf("Err: %v, want ErrClosed", err)
		}
	})
}

// The error of a stream above the GOAWAY's last does not change when the connection ends later. The
// race detector checks that.
func TestErrorOfAGoAwayDoesNotChangeAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, nil)
		served := getAsync(conn, "/served")
		peer.WantHeaders("a request", 1)
		excluded := getAsync(conn, "/excluded")
		peer.WantHeaders("another one", 3)
		peer.WriteGoAway(1, wire.NoError, "bye")
		err := excluded.WantErr(t, "it is excluded")
		text := h2test.Go(func() (string, error) { return err.Error(), nil }) // at the time of the end
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		<-conn.Done()
		served.Want(t, "the response").Body.Close()
		if before, after := text.Want(t, "the text"), err.Error(); before != after {
			t.Errorf("the error is %q, and then %q", before, after)
		}
	})
}
