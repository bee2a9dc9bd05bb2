// Package conformance tests hyper against the RFCs. It has one row for each rule that binds an
// HTTP/2 client: RFC 9113 (HTTP/2), 7541 (HPACK), 9110 (HTTP), 8441 (extended CONNECT) and 9218
// (priorities). In each row, a scripted peer breaks the rule, or checks that the client keeps it.
// The client is used only through hyper's public API. RULES.md lists the rows. It is generated from
// them:
//
//	go test ./internal/conformance -run TestReadme -update
//
// A broken rule has one of two outcomes.
//
// A stream error sends RST_STREAM with the code that the RFC names. The caller gets a
// *hyper.StreamError with that code. The connection goes on, and its compression state is still
// correct.
//
// A connection error sends GOAWAY with the code and then closes the connection. Every call gets a
// *hyper.ConnError with that code.
//
// Where the RFC allows several behaviors, the row names hyper's choice and tests it.
package conformance
