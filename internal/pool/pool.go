// Package pool decides for the connections to many hosts: whose turn it is, which connection serves
// a request, when another one is made, how often a request is sent again, and which connections are
// closed because there are too many.
//
// Nothing here dials, closes or reports anything. A host of the package that uses this one has a
// Queue, an Attempts, a Conns and so on, and acts on what they decide. They have no lock: the
// host's lock guards them. A Bound and a Throttle are for all hosts, and have their own locks.
//
// Connections are a type parameter, so that the tests need none.
package pool

// shrunk returns list, or nil if it is empty, so that its memory is released.
func shrunk[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}
