package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// wantTexts are texts that each picture has.
var wantTexts = map[string][]string{
	"speed.svg": {"lower is better", "callers, each with one request at a time",
		"CPU time for each request, µs (log)", "1,000", "hyper", "net/http", "x/net/http2",
		"hyper under http.Client", "grpc-go, unary calls"},
	"memory.svg": {"shorter is better", "an idle connection", "a stream that waits for its response", "heap",
		"stacks of goroutines", "KiB (as a part of net/http's)", "hyper", "net/http", "x/net/http2"},
	"windows.svg": {"window of the connection", "window of the stream", "data in flight", "seconds",
		"bytes (log)", "100 ms, 1 Gbit/s: hyper's default", "20 ms, 50 Mbit/s: net/http's windows"},
}

// checkPicture checks that a picture is well-formed, has a title and a description, follows the
// reader's color scheme, and has texts for what it shows, and for the command and the date.
func checkPicture(t *testing.T, name string, picture []byte) {
	t.Helper()
	var open []string
	var texts []string
	about := map[string]string{}
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			open = append(open, e.Name.Local)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) == 2 {
				about[open[1]] += string(e)
				texts = append(texts, string(e))
			}
		}
	}
	if len(about["title"]) < 10 || len(about["desc"]) < 100 {
		t.Errorf("%s: the title is %q, the description %q", name, about["title"], about["desc"])
	}
	if !strings.Contains(about["style"], "prefers-color-scheme:dark") {
		t.Errorf("%s has no dark scheme", name)
	}
	only := strings.TrimSuffix(name, ".svg")
	for _, want := range append(wantTexts[name], "go -C internal/bench run . -plots . -only "+only) {
		if !slices.Contains(texts, want) {
			t.Errorf("%s has no text %q", name, want)
		}
	}
	dated := regexp.MustCompile(`^20\d\d-\d\d-\d\d, `)
	if !slices.ContainsFunc(texts, dated.MatchString) {
		t.Errorf("%s has no date", name)
	}
}

// The command measures every client and draws all pictures. A second run keeps what it does not
// measure.
func TestPlotsAreMeasuredAndDrawn(t *testing.T) {
	dir := t.TempDir()
	if err := writePlots(plotOptions{dir: dir, rounds: 1, quick: true}); err != nil {
		t.Fatal(err)
	}
	first, err := readPlots(filepath.Join(dir, "plots.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range plotClients {
		if c.impl == h2load {
			continue
		}
		for _, callers := range plotCallers {
			if v := first.Speed.CPU[count(callers)][c.impl]; v <= 0 {
				t.Errorf("%s, %d callers: %g µs", c.name, callers, v)
			}
		}
		for _, figure := range []string{"idle", "open"} {
			if v := first.Memory.sum(figure, c.impl); v <= 0 {
				t.Errorf("%s, %s: %g bytes", c.name, figure, v)
			}
		}
		for _, figure := range []string{"down", "up"} {
			if v := first.Bulk.CPU[figure][c.impl]; v <= 0 && c.impl != "grpc" {
				t.Errorf("%s, %s: %g s", c.name, figure, v)
			}
		}
	}
	for name := range wantTexts {
		picture, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		checkPicture(t, name, picture)
	}
	if err := writePlots(plotOptions{dir: dir, rounds: 1, quick: true, only: "bulk"}); err != nil {
		t.Fatal(err)
	}
	second, err := readPlots(filepath.Join(dir, "plots.json"))
	if err != nil || second.Speed == nil || second.Windows == nil {
		t.Errorf("what was not measured again is lost: %v", err)
	}
}

// Where nghttpd and h2load are missing, net/http's server takes the place of the first, and the
// plot names both as missing.
func TestMissingProgramsAreLeftOutByName(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	data, err := quickLab(t).plotSpeed()
	if err != nil {
		t.Fatal(err)
	}
	if _, found := data.CPU["1"][h2load]; found || data.CPU["1"]["grpc"] <= 0 {
		t.Errorf("the figures are %v", data.CPU)
	}
	picture := string(data.picture())
	for _, want := range []string{"net/http&#39;s server", "h2load is not installed",
		"nghttpd is not installed"} {
		if !strings.Contains(picture, want) {
			t.Errorf("the plot has no text %q", want)
		}
	}
}

// An axis begins and ends with a tick, around the values.
func TestAxesHoldTheirValues(t *testing.T) {
	for _, c := range [][4]float64{{3.3, 47, 2, 50}, {1, 5, 1, 5}, {23, 42, 5, 50}, {0.7, 0.8, 0.1, 1},
		{70, 1500, 50, 2000}} {
		a := steps(c[0], c[1])
		if a.Low != c[2] || a.High != c[3] || a.Ticks[0].At != a.Low || a.Ticks[len(a.Ticks)-1].At != a.High {
			t.Errorf("%v to %v: %+v", c[0], c[1], a)
		}
	}
	for _, most := range []float64{0, 0.4, 7, 114} {
		if a := linear(most); a.High < most || len(a.Ticks) < 2 || len(a.Ticks) > 7 {
			t.Errorf("up to %v: %+v", most, a)
		}
	}
}
