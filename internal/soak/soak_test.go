package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gohyper.dev/hyper"
)

func TestTwoSecondsOfSoakAreSound(t *testing.T) {
	var table bytes.Buffer
	file := filepath.Join(t.TempDir(), "soak.svg")
	if err := soak(options{length: 2 * time.Second, seed: 1, workers: 12, plot: file}, &table); err != nil {
		t.Errorf("%v\n%s", err, table.String())
	}
	svg, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(svg)); err == nil; {
		_, err = d.Token()
	}
	if err != io.EOF {
		t.Error(err)
	}
}

func TestPushesThatNoExchangeClaimsAreNoViolation(t *testing.T) {
	l := newLedger()
	s := &site{name: "pushes", streams: 100, l: l}
	if err := s.start(1); err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	addr, _ := s.at()
	conn, err := hyper.Dial(t.Context(), addr, &hyper.Config{TLS: clientTLS(), Push: &hyper.PushPolicy{}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &client{Conn: conn, site: s, kind: &managers[0]}
	people := population{l: l, alive: map[*client]bool{c: true}}
	x := &exchange{id: 1, kind: "down", how: "push", size: 1 << 20, stop: -1}
	x.rng = rand.New(rand.NewPCG(1, 0)) // by which the exchange claims none of its pushes
	if err := x.run(c); err != nil {
		t.Fatal(err)
	}
	if n := conn.Stats().StreamsOpen; n != 2 {
		t.Errorf("%d streams are open, want 2 pushes that are larger than their windows", n)
	}
	people.checkRest()
	if err := l.verdict(); err != nil {
		t.Error(err)
	}
}

func TestCheckerAcceptsItsSourceAndNothingElse(t *testing.T) {
	const size = 1000
	for _, at := range []int64{0, 1, 7, 8, 500, size - 1} {
		body, _ := io.ReadAll(&source{seed: 5, size: size})
		c := &checker{seed: 5, size: size}
		c.Write(body[:at])
		if _, err := c.Write(body[at:]); err != nil || c.whole() != nil {
			t.Errorf("cut at %d: %v, %v", at, err, c.whole())
		}
		body[at] ^= 1
		if _, err := (&checker{seed: 5, size: size}).Write(body); !errors.As(err, new(mismatch)) {
			t.Errorf("byte %d is wrong: %v", at, err)
		}
		if c := (&checker{seed: 5, size: size}); c.whole() == nil {
			t.Error("nothing is whole")
		}
	}
}

func TestLedgerFindsARequestProcessedTwice(t *testing.T) {
	l := newLedger()
	l.process(70)
	l.process(71)
	if err := l.verdict(); err != nil || !l.wasProcessed(70) || l.wasProcessed(72) {
		t.Error(err)
	}
	l.process(70)
	if l.verdict() == nil {
		t.Error("twice is too often")
	}
}
