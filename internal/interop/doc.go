// Package interop tests hyper against servers that other people wrote: nghttpd, h2o, nginx, Apache
// httpd, lighttpd, HAProxy, Caddy, Node, gRPC and the net/http of two versions of Go. It contains
// only tests; goserver and origin below it are a server and a handler for them. README.md has the
// results as a table.
//
//	go -C internal/interop test ./...
//
// Each test starts its server on a free port and stops it. A server that is not installed is
// skipped by name. With HYPER_REQUIRE_SERVERS=1 a missing server is a failure. Caddy and Go 1.27
// are fetched by the go command; the first run builds Caddy, which takes minutes.
package interop
