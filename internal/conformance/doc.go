// Package conformance holds hyper against the RFCs, one row for each rule that binds an HTTP/2 client: RFC 9113
// (HTTP/2), 7541 (HPACK), 9110 (HTTP), 8441 (extended CONNECT) and 9218 (priorities). A scripted peer breaks the rule,
// or watches it being kept, through hyper's public API alone. README.md lists the rows; it is generated from them:
//
//	go test ./internal/conformance -run TestReadme -update
//
// A broken rule has one outcome. A stream error: RST_STREAM with the code the RFC names, a *hyper.StreamError with it
// for the caller, and a connection that goes on, its compression state whole. A connection error: GOAWAY
// with the code, then the close, and a *hyper.ConnError with it for everybody. Where the RFC leaves a choice, the row
// says so and holds hyper to its own.
package conformance
