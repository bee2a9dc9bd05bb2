//go:build !race

package hypertest

// raceEnabled reports whether the race detector is on.
const raceEnabled = false
