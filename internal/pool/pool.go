// Package pool decides for the connections to many hosts: whose turn it is, which connection serves
// a request, when another one is made, how often a request is sent again, and which connections are
// closed because there are too many.
//
// Nothing here dials, closes or reports anything: the package that uses this one acts on what is
// decided here. It has a Host for each host, and a lock that guards it. A Bound and a Throttle are
// for all hosts, and have their own locks.
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
