//go:build !race

package hyper

const raceEnabled = false
