package main

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMaxTimeEndsAURL(t *testing.T) {
	eachServer(t, func(t *testing.T, s *testServer) {
		exit, out, errs := s.get(t, "-m", "1.5", s.URL+"/slow", s.URL+"/page")
		if exit != exitTime || out != "page\n" || !strings.Contains(errs, "/slow: the time of -m is over\n") {
			t.Errorf("exit %d, %q, %q", exit, out, errs)
		}
		if exit, _, _ := s.get(t, "-m", "1.5", s.URL+"/slow", s.URL+"/none"); exit != exitTime {
			t.Errorf("exit %d", exit)
		}
		if exit, _, _ := s.get(t, "-m", "1.5", s.URL+"/cut", s.URL+"/slow"); exit != exitFailed {
			t.Errorf("exit %d", exit)
		}
	})
}

func TestMaxTimeBoundsConnecting(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	exit, _, errs := get(t, "-m", "0.1", "https://"+silent.Addr().String())
	if exit != exitTime || !strings.Contains(errs, "the time of -m") {
		t.Errorf("exit %d, %q", exit, errs)
	}
}

func TestClockStandsWhileAURLWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{left: 3 * time.Second}
		ctx, stop := c.start(t.Context())
		defer stop()
		time.Sleep(2 * time.Second)
		turn := make(chan struct{})
		time.AfterFunc(time.Hour, func() { close(turn) })
		c.wait(turn)
		if ctx.Err() != nil {
			t.Error("the time of waiting counts")
		}
		began := time.Now()
		<-ctx.Done()
		if took := time.Since(began); took != time.Second {
			t.Errorf("%v were left, want 1s", took)
		}
		if err := c.explain(ctx, ctx.Err()); err != errMaxTime {
			t.Error(err)
		}
	})
}
