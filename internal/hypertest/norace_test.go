//go:build !race

package hypertest

const raceEnabled = false
