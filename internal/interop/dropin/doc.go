// Package dropin runs programs and SDKs that other people wrote against *http.Client, once through net/http's Transport and
// once through hyper's, and compares what they report and what the servers saw. It holds nothing but tests.
package dropin
