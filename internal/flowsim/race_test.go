//go:build race

package flowsim

// raced reports whether the race detector is on. With it, the simulations take ten times as long
// and have few data races to find, so that the tests play fewer of them.
const raced = true
