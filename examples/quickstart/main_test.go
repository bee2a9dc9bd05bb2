package main

import (
	"strings"
	"testing"
)

func TestQuickstartShowsWhatHappened(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out, nil); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"ALPN h2", "4 requests at once", "push /logo.svg, with stream", "gzip",
		"67,108,864 bytes", "both ways", "PING", "5 streams and 1 push"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestAPageThatIsNotThePageIsAnError(t *testing.T) {
	server := startServer()
	defer server.Close()
	conn, err := dial(t.Context(), server, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := conn.Get(t.Context(), "/story")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read("GET /story", "/numbers", resp); err == nil {
		t.Error("the story passed for the numbers")
	}
}
