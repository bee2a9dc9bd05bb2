package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestNoEventIsLost(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out, 20); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{`20 number: "20,\nand so on"`, "connects again: the response ended",
		"INTERNAL_ERROR", "20 events in 7 responses"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "over 1 connections") {
		t.Errorf("no GOAWAY\n%s", out.String())
	}
}

func TestEventsAreReadAsHTMLSays(t *testing.T) {
	text := "\ufeffdata: a\r\ndata:b\rdata:  c\n\n" + // three ends of line; one space is dropped
		"event: x\n\n" + // no data: no event
		"id: 1\ndata\n\n" + // empty data
		"id: with\x00NUL\ndata: d\n\n" +
		": comment\nunknown: field\nid\ndata: e\n\n" +
		"data: without its blank line\n"
	want := []Event{{"", "message", "a\nb\n c"}, {"1", "message", ""}, {"1", "message", "d"},
		{"", "message", "e"}}
	for name, body := range map[string]io.Reader{
		"at once":     strings.NewReader(text),
		"by one byte": iotest.OneByteReader(strings.NewReader(text)),
	} {
		var got []Event
		again, err := new(Source).read(body, func(e Event) bool { got = append(got, e); return true })
		if !again || err != errEnd || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, %v", name, got, again, err)
		}
	}
}

func TestWhatEndsTheEvents(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/gone":
			w.WriteHeader(http.StatusNoContent)
		case "/page":
			fmt.Fprint(w, "a page")
		case "/long":
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			fmt.Fprint(w, "data: "+strings.Repeat("x", maxLine))
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	for path, want := range map[string]string{"/gone": "", "/page": "no event stream", "/long": "too long",
		"/busy": "context canceled"} {
		ctx, cancel := context.WithCancel(t.Context())
		var last error
		tries := 0
		s := &Source{Client: server.Client(), URL: server.URL + path, OnRetry: func(error) {
			if tries++; tries == 3 {
				cancel()
			}
		}}
		for _, err := range s.Events(ctx) {
			last = err
		}
		cancel()
		if want == "" && last != nil || want != "" && (last == nil || !strings.Contains(last.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, last, want)
		}
		if retried := tries > 0; retried != (path == "/busy") {
			t.Errorf("%s: %d tries", path, tries)
		}
		if path == "/busy" && !errors.Is(last, context.Canceled) {
			t.Errorf("%v", last)
		}
	}
}

func TestArguments(t *testing.T) {
	if n, err := parse([]string{"-n", "4"}); n != 4 || err != nil {
		t.Errorf("-n 4: %d, %v", n, err)
	}
	for args, want := range map[string]string{
		"-n -1":     "-n -1: want 1 or more",
		"-n 0":      "-n 0: want 1 or more",
		"-n 4 more": `unexpected argument "more"`,
	} {
		if _, err := parse(strings.Fields(args)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
