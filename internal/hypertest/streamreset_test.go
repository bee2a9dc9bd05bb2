// This file tests what a reset does to the calls that wait on its stream.

package hypertest

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// streamCalls returns all calls that can wait on a stream.
func streamCalls(s *hyper.Stream, body, raw io.Reader) map[string]func() error {
	return map[string]func() error{
		"Write":      func() error { _, err := s.Write([]byte("x")); return err },
		"CloseWrite": s.CloseWrite,
		"Trailers":   func() error { return s.SendTrailers(hyper.Header{{Name: "x", Value: "1"}}) },
		"Read":       func() error { _, err := body.Read(make([]byte, 1)); return err },
		"Raw":        func() error { _, err := raw.Read(make([]byte, 1)); return err },
		"Pushes": func() error {
			for _, err := range s.Pushes(context.Background()) {
				return err
			}
			return nil
		},
	}
}

// rawBody returns the body of the stream's response as it was sent.
func rawBody(t *testing.T, s *hyper.Stream) io.Reader {
	t.Helper()
	resp, err := s.Response(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Raw()
}

func TestResetReachesThePeerAndEveryCall(t *testing.T) {
	for _, code := range []hyper.ErrCode{hyper.ErrCodeCancel, hyper.ErrCodeNo, hyper.ErrCodeInternal,
		hyper.ErrCodeEnhanceYourCalm, hyper.ErrCode(0xfeedface)} {
		synctest.Test(t, func(t *testing.T) {
			peer, s := openWithWindow(t, 1)
			body, raw := streamBody(t, peer, s), rawBody(t, s)
			peer.WriteData(1, 0, []byte("never read"))
			blocked := writeAsync(s, []byte("ab"))
			peer.WantData("the window", 1, 0, 1)
			s.Reset(code)
			peer.WantRSTStream("the caller's code", 1, wire.ErrCode(code))
			blocked.want(t, "Write is freed", 1, hyper.ErrCanceled)
			first := blocked.Err
			var se *hyper.StreamError
			if !errors.As(first, &se) || se.Code != code || se.StreamID != 1 || se.FromPeer ||
				!errors.Is(first, code) {
				t.Errorf("%v", first)
			}
			s.Reset(hyper.ErrCodeStreamClosed) // has ended already
			body.Close()
			for range 2 {
				for name, call := range streamCalls(s, body, raw) {
					if err := call(); err != first {
						t.Errorf("%s: %v, want %v", name, err, first)
					}
				}
				if _, err := s.Response(context.Background()); err != first {
					t.Errorf("Response: %v, want %v", err, first)
				}
			}
			peer.WantIdle("it is sent once")
		})
	}
}

func TestResetFreesReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 1)
		errs := make(chan error, 3)
		go func() { _, err := s.Response(context.Background()); errs <- err }()
		go func() { _, err := s.Read(make([]byte, 1)); errs <- err }()
		go func() { errs <- streamCalls(s, nil, nil)["Pushes"]() }()
		synctest.Wait()
		s.Reset(hyper.ErrCodeCancel)
		peer.WantRSTStream("reset", 1, wire.Cancel)
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, hyper.ErrCanceled) || !errors.Is(err, hyper.ErrCodeCancel) {
				t.Error(err)
			}
		}
	})
}

func TestPeersResetReachesEveryCallAndLeavesWhatHadArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, s := openWithWindow(t, 0)
		body, raw := streamBody(t, peer, s), rawBody(t, s)
		blocked := writeAsync(s, []byte("x"))
		peer.WriteData(1, 0, []byte("arrived"))
		peer.WriteRSTStream(1, wire.EnhanceYourCalm)
		blocked.want(t, "Write is freed", 0, hyper.ErrCodeEnhanceYourCalm)
		first := blocked.Err
		var se *hyper.StreamError
		if !errors.As(first, &se) || !se.FromPeer || se.Code != hyper.ErrCodeEnhanceYourCalm ||
			errors.Is(first, hyper.ErrCanceled) {
			t.Errorf("%v", first)
		}
		p := make([]byte, 7)
		if _, err := io.ReadFull(body, p); err != nil || string(p) != "arrived" {
			t.Errorf("%q, %v", p, err)
		}
		for range 2 {
			for name, call := range streamCalls(s, body, raw) {
				if err := call(); err != first {
					t.Errorf("%s: %v, want %v", name, err, first)
				}
			}
		}
		s.Reset(hyper.ErrCodeCancel)
		peer.WantIdle("RFC 9113 §5.1: no frame answers RST_STREAM")
	})
}
