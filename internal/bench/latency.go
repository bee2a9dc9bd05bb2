package main

import (
	"errors"
	"fmt"
	"time"
)

// rateSpan is how long requests arrive in one measurement of latency.
const rateSpan = 2 * time.Second

// latencies measures how long small requests take if they arrive at a part of the rate that net/http
// saturates at. For h2load, the time begins when a request is sent, so it is not corrected.
func (g *goalLab) latencies() (lines []outcome, err error) {
	for _, callers := range []int{1, 10, 100, 1000} {
		closed := workload{server: "nghttpd", path: "/1k", mode: "get", callers: callers, rounds: 3,
			requests: min(40000, 10000*callers), clients: []string{"nethttp"}}
		saturation := 0.0
		for _, percent := range []int{20, 50, 80} {
			w := rates(callers, percent)
			if !g.only.MatchString(w.name) {
				continue
			}
			if saturation == 0 {
				median, err := g.run(g.quickened(closed))
				if skipped := (*errSkipped)(nil); err != nil && !errors.As(err, &skipped) {
					return lines, err
				} else if err == nil {
					saturation = median("nethttp", "rps")
				}
			}
			w.rps = saturation * float64(percent) / 100
			more, err := g.outcomes(g.quickened(w))
			if err != nil {
				return lines, err
			}
			lines = append(lines, more...)
		}
	}
	return lines, nil
}

// rates returns requests that arrive at a part of the rate at which net/http is saturated.
func rates(callers, percent int) workload {
	w := workload{
		name:   fmt.Sprintf("latency at %d %% of saturation, %s", percent, plural(callers, "caller")),
		server: "nghttpd", path: "/1k", mode: "rate", callers: callers, rounds: 3,
		span: rateSpan, clients: []string{"own", "http", "nethttp", "h2load"},
	}
	for _, figure := range []string{"p50_us", "p99_us", "p999_us"} {
		most := 0.0
		if figure == "p99_us" {
			most = 0.8
		}
		w.goals = append(w.goals, goal{client: "own", figure: figure, peer: "nethttp", most: most},
			goal{client: "http", figure: figure, peer: "nethttp", most: most})
	}
	w.goals = append(w.goals, goal{client: "own", figure: "p99_us", peer: "h2load"})
	return w
}
