// Package hypertest holds the tests of package hyper that need nothing private. They import it as
// its users do. Each test file is named after the subject that it tests. Two files hold what all
// tests may use: peer_test.go, a connection with its scripted peer, and doors_test.go, the same
// exchange through every way into the library.
package hypertest
