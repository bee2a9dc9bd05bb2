// Package interop tests hyper against servers that other people wrote: nghttpd, h2o, nginx, Apache httpd, HAProxy, Node,
// gRPC and Go's net/http. It holds nothing but tests.
//
//	go -C internal/interop test ./...
//
// Each server is started by the test itself, on a port of its own, and ended by it. A server that is not
// installed is skipped by name; with HYPER_REQUIRE_SERVERS=1 it is a failure.
package interop
