//go:build race

package buffer

// raceEnabled reports whether the race detector is enabled.
const raceEnabled = true
