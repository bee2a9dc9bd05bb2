package main

import (
	"fmt"
	"regexp"
	"strings"

	"gohyper.dev/hyper/internal/bench/chart"
)

// goalKinds are the kinds of work that have a picture each.
var goalKinds = []struct {
	file, title string
	works       *regexp.Regexp
}{
	{"goals-requests.svg", "Small requests", regexp.MustCompile(`^GET `)},
	{"goals-fields.svg", "Many fields, and fields that change", regexp.MustCompile(`fields`)},
	{"goals-bulk.svg", "Small DATA frames, and downloads", regexp.MustCompile(`^(DATA frames|download)`)},
	{"goals-grpc.svg", "gRPC through connect-go", regexp.MustCompile(`^gRPC`)},
	{"goals-connections.svg", "Many connections, and two processors",
		regexp.MustCompile(`^(10,000 connections|two processors)`)},
	{"goals-latency.svg", "Latency of requests that arrive at a given rate", regexp.MustCompile(`^latency`)},
}

// The inks of the pictures of goals, and what they are for.
var goalKeys = []chart.Key{
	{Name: "the goal is met", Ink: chart.Ink{Color: 1, Solid: true}},
	{Name: "it is not met", Ink: chart.Ink{Color: 3, Solid: true}},
}

// mostOfGoal is where the axis of a picture of goals ends. A bar that is longer ends there, too.
const mostOfGoal = 2.5

// goalPictures returns a picture for each kind of work that has lines with goals, by the names of
// their files.
func goalPictures(lines []outcome) map[string][]byte {
	all := map[string][]byte{}
	for _, kind := range goalKinds {
		var chosen []outcome
		for _, o := range lines {
			if o.Goal != 0 && o.Skipped == "" && kind.works.MatchString(o.Work) {
				chosen = append(chosen, o)
			}
		}
		if len(chosen) > 0 {
			all[kind.file] = goalPicture(kind.title, chosen)
		}
	}
	return all
}

// goalPicture draws how far lines are from their goals, a bar for each.
func goalPicture(title string, lines []outcome) []byte {
	const nameX = 590
	g := chart.Group{X: nameX + 12, Width: 240, Title: "figure, as a part of its goal",
		Axis: chart.Axis{High: mostOfGoal}}
	for v := 0.0; v <= mostOfGoal; v += 0.5 {
		g.Axis.Ticks = append(g.Axis.Ticks, chart.Tick{At: v, Text: fmt.Sprint(v)})
	}
	g.Axis.Ticks[2].Text = "goal"
	about := "How large figures are, as a part of their goals."
	var names []string
	for _, o := range lines {
		name := strings.ReplaceAll(o.Work+": "+o.Client, ", GOMAXPROCS 2", "")
		names = append(names, fmt.Sprintf("%s, %s", name, o.Figure))
		text := fmt.Sprintf("%s (%s)", short(o.Value), o.goalText())
		if o.Peer != "" {
			text = fmt.Sprintf("%.2f of %s (%s)", o.Ratio, strings.ReplaceAll(o.Peer, ", GOMAXPROCS 1",
				" with one processor"), o.goalText())
		}
		ink := goalKeys[1].Ink
		if o.Met {
			ink = goalKeys[0].Ink
		}
		g.Bars = append(g.Bars, chart.Bar{Parts: []float64{min(o.ofGoal(), mostOfGoal)},
			Inks: []chart.Ink{ink}, Text: text})
		about += fmt.Sprintf(" %s: %s.", names[len(names)-1], text)
	}
	p := chart.Picture{Title: title, About: about, Better: "shorter is better", Toward: "left",
		Keys:  goalKeys,
		Foot:  []string{"go -C internal/bench run . -write", "from goals.json; compare ratios, not times"},
		Width: 1160, Height: float64(106 + 30*len(names) + 84)}
	return p.Bars(nameX, names, []chart.Group{g})
}

// ofGoal returns the line's figure as a part of its goal, or the goal as a part of the figure if it
// is a lower bound: at most 1 if the goal is met.
func (o outcome) ofGoal() float64 {
	if o.AtLeast {
		return o.Goal / o.Ratio
	}
	return o.Ratio / o.Goal
}
