package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8"
	"gohyper.dev/hyper/internal/h2test"
)

// barsOn returns bars that appear after a time, as on a terminal of 100 columns.
func barsOn(w io.Writer, after time.Duration) *bars {
	b := newBars(w)
	b.after = after
	b.options = []mpb.ContainerOption{mpb.WithAutoRefresh(), mpb.WithWidth(100),
		mpb.WithRefreshRate(10 * time.Millisecond)}
	return b
}

func TestEachTransferHasABar(t *testing.T) {
	var out h2test.Buffer
	b := barsOn(&out, 0)
	one, two := b.download("https://host/one", 40<<20), b.download("https://host/two", -1)
	one.Write(make([]byte, 10<<20))
	two.Write(make([]byte, 1<<20))
	fmt.Fprintln(b, "a message")
	waitFor(t, &out, "a message\n")
	waitFor(t, &out, "https://host/one")
	waitFor(t, &out, "10.0 MiB of 40.0 MiB")
	waitFor(t, &out, "https://host/two")
	waitFor(t, &out, "1.0 MiB")
	one.done()
	two.done()
	b.close()
	fmt.Fprintln(b, "the end")
	waitFor(t, &out, "the end\n")
}

// waitFor waits until out has text.
func waitFor(t *testing.T, out fmt.Stringer, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), text); {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", text, out)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestShortTransfersHaveNoBar(t *testing.T) {
	var out h2test.Buffer
	b := barsOn(&out, time.Hour)
	r := b.download("https://host/one", 40)
	r.Write(make([]byte, 40))
	r.done()
	b.close()
	if out.String() != "" {
		t.Errorf("%q", out.String())
	}
}

func TestBarsOfGet(t *testing.T) {
	s := startServer(t, true)
	file := writeFile(t, "data", strings.Repeat("x", 200<<10))
	var out, errs h2test.Buffer
	o, err := parse([]string{"-k", "-rate", "300k", "-T", file, s.URL + "/echo/x", s.URL + "/none"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGetter(o, stdio{strings.NewReader(""), &out, &errs})
	if err != nil {
		t.Fatal(err)
	}
	g.bars = barsOn(&errs, 0)
	g.std.err = &lockedWriter{w: g.bars}
	if exit := g.getAll(t.Context()); exit != exitStatus {
		t.Errorf("exit %d", exit)
	}
	for _, want := range []string{"up ", "/echo/x", " of 200.0 KiB", "/none: status 404\n"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("no %q in %q", want, errs.String())
		}
	}
	if len(out.String()) < 200<<10 {
		t.Errorf("%d bytes", len(out.String()))
	}
}
