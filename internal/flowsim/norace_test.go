//go:build !race

package flowsim

// raced reports whether the race detector is on. It is off here, so that the tests play the whole
// reduced grid.
const raced = false
