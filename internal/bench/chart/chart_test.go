package chart

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A node is an element of a picture.
type node struct {
	name, text string
	attr       map[string]string
}

// nodes returns the elements of a picture. It fails if the picture is not well-formed.
func nodes(t *testing.T, picture []byte) (all []*node) {
	t.Helper()
	var open []*node
	for d := xml.NewDecoder(strings.NewReader(string(picture))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			n := &node{name: e.Name.Local, attr: map[string]string{}}
			for _, a := range e.Attr {
				n.attr[a.Name.Local] = a.Value
			}
			all, open = append(all, n), append(open, n)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				open[len(open)-1].text += string(e)
			}
		}
	}
}

// find returns the elements with a name and a class.
func find(all []*node, name, class string) (found []*node) {
	for _, n := range all {
		if n.name == name && strings.Contains(" "+n.attr["class"]+" ", " "+class+" ") {
			found = append(found, n)
		}
	}
	return found
}

// panel returns a panel with two curves.
func panel() Panel {
	return Panel{X: 80, Y: 80, Width: 100, Height: 100, Title: "a < b & c", Note: "a note",
		Across: Axis{Title: "across", Low: 1, High: 100, Log: true,
			Ticks: []Tick{{1, "one"}, {100, "hundred"}}},
		Up: Axis{Title: "up", High: 10, Ticks: []Tick{{5, "five"}}},
		Curves: []Curve{
			{"first", Ink{Color: 0, Mark: 1}, []Point{{1, 0}, {10, 5}, {100, 10}, {0, 7}}},
			{"second", Ink{Color: 1, Mark: 2, Area: true, Dashed: true}, []Point{{1, 10}, {100, 9.9}}},
			{"nothing", Ink{Color: 2}, []Point{{-1, 2}}},
		}, Names: true}
}

func TestCurvesAreWhereTheirPointsAre(t *testing.T) {
	p := Picture{Title: "T", Width: 400, Height: 300}
	all := nodes(t, p.Lines([]Panel{panel()}))
	first := find(all, "polyline", "s0")
	if len(first) != 1 || first[0].attr["points"] != "80.0,180.0 130.0,130.0 180.0,80.0" {
		t.Errorf("the first curve: %v", first)
	}
	if n := find(all, "polyline", "s2"); len(n) != 0 {
		t.Error("a curve without a point that can be drawn has a line")
	}
	if n := find(all, "polygon", "f1"); len(n) != 1 {
		t.Errorf("%d areas, want 1", len(n))
	}
	if second := find(all, "polyline", "s1"); len(second) != 1 || second[0].attr["stroke-dasharray"] == "" {
		t.Errorf("the second curve: %v", second)
	}
}

func TestPictureSaysWhatItIs(t *testing.T) {
	p := Picture{Title: "A & B", About: "about <it>", Better: "lower is better", Toward: "down",
		Keys: []Key{{"a key", Ink{Color: 3, Solid: true, Pale: true}}, {"a line", Ink{Color: 4, Area: true}}},
		Foot: []string{"the command", "the date"}, Width: 400, Height: 300}
	all := nodes(t, p.Lines([]Panel{panel()}))
	if n := all[0]; n.name != "svg" || n.attr["role"] != "img" || n.attr["aria-labelledby"] != "title about" {
		t.Errorf("it begins with %v", n)
	}
	texts := map[string]bool{}
	for _, n := range all {
		texts[n.name+" "+n.attr["id"]+" "+n.text] = true
	}
	for _, want := range []string{"title title A & B", "desc about about <it>", "text  A & B",
		"text  a < b & c", "text  a note", "text  across", "text  up", "text  one", "text  five",
		"text  first", "text  second", "text  lower is better",
		"text  a key", "text  a line", "text  the command", "text  the date"} {
		if !texts[want] {
			t.Errorf("no %q", want)
		}
	}
	if texts["text  nothing"] {
		t.Error("a curve that is not drawn has a name")
	}
}

func TestBarsAreAsLongAsTheirParts(t *testing.T) {
	p := Picture{Title: "T", Better: "shorter is better", Toward: "left", Width: 400, Height: 300}
	inks := []Ink{{Color: 1, Solid: true}, {Color: 1, Solid: true, Pale: true}}
	g := Group{X: 100, Width: 200, Title: "group",
		Axis: Axis{High: 10, Title: "KiB", Ticks: []Tick{{5, "5"}}},
		Bars: []Bar{{[]float64{2.5, 5}, inks, "7.5 KiB"}, {[]float64{-1, 10}, inks, "9 KiB"}}}
	all := nodes(t, p.Bars(90, []string{"one", "two"}, []Group{g}))
	bars := find(all, "rect", "f1")
	if len(bars) != 4 {
		t.Fatalf("%d parts, want 4", len(bars))
	}
	for i, want := range []string{"100.0 50.0", "150.0 100.0", "100.0 0.0", "100.0 200.0"} {
		if got := bars[i].attr["x"] + " " + bars[i].attr["width"]; got != want {
			t.Errorf("part %d is at %s, want %s", i, got, want)
		}
	}
	if n := len(find(all, "rect", "pale")); n != 2 {
		t.Errorf("%d pale parts, want 2", n)
	}
}

func TestNamesDoNotOverlap(t *testing.T) {
	at := apart([]float64{50, 50, 51, 200, 52}, 17)
	for i := range at {
		for k := range i {
			if d := math.Abs(at[i] - at[k]); d < 16.9 {
				t.Errorf("places %d and %d are %.1f apart: %v", i, k, d, at)
			}
		}
	}
	if at[3] != 200 {
		t.Errorf("a place that is far from others has moved to %v", at[3])
	}
}

// Both schemes have a rule for each class with a color, and each color can be told from the
// background (WCAG 2.2: 4.5 for texts, which curves' names are, too).
func TestBothSchemesHaveReadableColors(t *testing.T) {
	for name, p := range map[string]palette{"light": light, "dark": dark} {
		if len(p.inks) != Inks {
			t.Errorf("%s: %d inks, want %d", name, len(p.inks), Inks)
		}
		for _, color := range append([]string{p.text, p.faint}, p.inks...) {
			if c := contrast(t, color, p.back); c < 4.5 {
				t.Errorf("%s: the contrast of %s is %.1f, want at least 4.5", name, color, c)
			}
		}
	}
	q := Picture{Title: "T", Width: 400, Height: 300}
	rules := regexp.MustCompile(`<style>(.*)@media \(prefers-color-scheme:dark\)\{(.*)\}\.line`).
		FindSubmatch(q.Lines([]Panel{panel()}))
	if rules == nil {
		t.Fatal("no rules for a dark scheme")
	}
	for i := range Inks {
		ink := strconv.Itoa(i)
		for _, class := range []string{".s" + ink, ".f" + ink, ".back", ".text", ".faint"} {
			for _, scheme := range rules[1:] {
				if !strings.Contains(string(scheme), class+"{") {
					t.Errorf("no rule for %s in %s", class, scheme)
				}
			}
		}
	}
}

// contrast returns the contrast of two colors, as WCAG 2.2 defines it.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(color string) (sum float64) {
		v, err := strconv.ParseUint(strings.TrimPrefix(color, "#"), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		for i, weight := range []float64{0.0722, 0.7152, 0.2126} {
			c := float64(v>>(8*i)&0xff) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}
