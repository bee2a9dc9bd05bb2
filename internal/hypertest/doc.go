// Package hypertest holds the tests of package hyper that need nothing private: they import it as
// its users do. A test file is named after the concern it is about. What every test may use is in
// peer_test.go (a connection with its scripted peer) and doors_test.go (the same exchange through
// every way into the library).
package hypertest
