// Package interop tests hyper against servers that other people wrote: nghttpd, h2o, nginx, Apache
// httpd, lighttpd, HAProxy, Node, gRPC and Go's net/http. It contains only tests.
//
//	go -C internal/interop test ./...
//
// Each test starts its server on a free port and stops it. A server that is not installed is
// skipped by name. With HYPER_REQUIRE_SERVERS=1 a missing server is a failure.
package interop
