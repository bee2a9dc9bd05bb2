//go:build race

package h2test

// Race reports whether the race detector is on, which makes everything about ten times slower.
const Race = true
