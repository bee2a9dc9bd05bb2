// Package dropin runs programs and SDKs that other people wrote for *http.Client. It runs each with
// net/http's Transport and with hyper's, and compares what the program reports and what the servers
// saw. It contains only tests.
package dropin
