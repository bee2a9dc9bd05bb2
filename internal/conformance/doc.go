// Package conformance tests hyper against the RFCs. It has one row for each rule that binds an
// HTTP/2 client: RFC 9113 (HTTP/2), 7541 (HPACK), 9110 (HTTP), 8441 (extended CONNECT) and 9218
// (priorities). A scripted peer breaks the rule, or checks that the client keeps it, through hyper's
// public API alone. RULES.md lists the rows. It is generated from them:
//
//	go test ./internal/conformance -run TestReadme -update
//
// A broken rule has one of two outcomes. A stream error is RST_STREAM with the code that the RFC
// names, and a *hyper.StreamError with that code for the caller. The connection goes on, and its
// compression state is whole. A connection error is GOAWAY with the code, then the close, and a
// *hyper.ConnError with that code for every call. Where the RFC leaves a choice, the row says so and
// tests hyper's choice.
package conformance
