// Package hypertest holds the tests of package hyper that need nothing private. They import it as
// its users do. Each test file is named after the subject that it tests. Some files hold what all
// tests may use: peer_test.go, a connection with its scripted peer; doors_test.go, the same
// exchange through every way into the library; siege_test.go, a connection whose peer attacks;
// limits_test.go, limits of the package as numbers.
package hypertest
