package main

import "fmt"

// The clients of most workloads.
var (
	smallClients  = []string{"own", "reused", "roundtrip", "nethttp", "floor", "floortypes", "h2load"}
	threeClients  = []string{"own", "http", "nethttp"}
	clientsOfRPCs = []string{"http", "nethttp"}
)

// workloads are all workloads except those of latency, whose rates depend on the machine.
var workloads = []workload{
	{
		name: "GET 1 KiB, 100 callers", server: "nghttpd", path: "/1k", mode: "get", callers: 100,
		requests: 80000, clients: smallClients,
		goals: []goal{
			{client: "own", figure: "us_per_req", peer: "floor", most: 1.5},
			{client: "own", figure: "us_per_req", peer: "h2load", most: 1},
			{client: "reused", figure: "us_per_req", peer: "floor", most: 1.35},
			{client: "reused", figure: "us_per_req", peer: "own"},
			{client: "reused", figure: "allocs_per_req", most: 0.1}, // crypto/tls's own
			{client: "reused", figure: "B_per_req", most: 10},
			{client: "roundtrip", figure: "us_per_req", peer: "floortypes", most: 1.15},
			{client: "roundtrip", figure: "allocs_per_req", most: 6},
			{client: "roundtrip", figure: "B_per_req", most: 1300},
			{client: "own", figure: "us_per_req", peer: "nethttp"},
			{client: "roundtrip", figure: "us_per_req", peer: "nethttp"},
		},
	},
	{
		name: "GET 1 KiB, 1,000 callers", server: "nghttpd", path: "/1k", mode: "get", callers: 1000,
		requests: 80000, clients: smallClients,
		goals: []goal{
			{client: "own", figure: "us_per_req", peer: "floor", most: 1.6},
			{client: "own", figure: "us_per_req", peer: "h2load"},
			{client: "reused", figure: "us_per_req", peer: "floor", most: 1.4},
			{client: "reused", figure: "us_per_req", peer: "own"},
			{client: "roundtrip", figure: "us_per_req", peer: "floortypes", most: 1.3},
			{client: "own", figure: "us_per_req", peer: "nethttp"},
			{client: "roundtrip", figure: "us_per_req", peer: "nethttp"},
		},
	},
	manyFields(100), manyFields(200),
	{
		name: "fields that change beside 12 that stay, 100 callers", server: "floor",
		path: "/1k", mode: "get", callers: 100, requests: 40000,
		extra: []string{"-fields", "12", "-changing"}, clients: threeClients,
		goals: []goal{
			{client: "own", figure: "us_per_req", peer: "nethttp", most: 0.25},
			{client: "http", figure: "us_per_req", peer: "nethttp"},
		},
	},
	smallFrames(1), smallFrames(10), smallFrames(100),
	{
		name: "10,000 connections, one request each in turn", server: "floor", path: "/1k", mode: "many",
		callers: 100, requests: 10000, conns: 10000, rounds: 3, clients: threeClients,
		goals: []goal{
			{client: "own", figure: "us_per_req", peer: "nethttp", most: 0.8},
			{client: "own", figure: "heap_per", peer: "nethttp", most: 0.4},
			{client: "own", figure: "rss_per", peer: "nethttp", most: 0.4},
			{client: "http", figure: "us_per_req", peer: "nethttp"},
			{client: "http", figure: "heap_per", peer: "nethttp"},
		},
	},
	{
		name: "download 1 GiB", server: "nghttpd", path: "/256m", mode: "down", callers: 1, requests: 4,
		clients: []string{"own", "http", "nethttp", "floor"},
		goals: []goal{
			{client: "own", figure: "cpu", peer: "nethttp", most: 0.9},
			{client: "own", figure: "cpu", peer: "floor", most: 1.06},
			{client: "http", figure: "cpu", peer: "nethttp"},
		},
	},
	rpcs("unary", 1, 0.85), rpcs("unary", 100, 0.4), rpcs("streaming", 1, 0.85), rpcs("streaming", 100, 0.4),
	processors(1, 100), processors(1, 1000), processors(4, 100), processors(4, 1000),
}

// manyFields returns requests and responses with n fields.
func manyFields(n int) workload {
	return workload{
		name: fmt.Sprintf("%d fields in a request and in its response, 10 callers", n), server: "floor",
		path: fmt.Sprintf("/fields?n=%d", n), mode: "get", callers: 10, requests: 6000,
		extra: []string{"-fields", count(n)}, clients: threeClients,
		goals: []goal{
			{client: "own", figure: "us_per_req", peer: "nethttp", most: 0.3},
			{client: "http", figure: "us_per_req", peer: "nethttp", most: 0.45},
		},
	}
}

// smallFrames returns a download in DATA frames of size bytes each.
func smallFrames(size int) workload {
	return workload{
		name: fmt.Sprintf("DATA frames of %s, per frame", plural(size, "byte")), server: "floor",
		path: fmt.Sprintf("/frames?size=%d&n=", size), mode: "down", callers: 1, requests: 5,
		parts: 200_000, clients: []string{"own", "http", "nethttp", "floor"},
		goals: []goal{
			{client: "own", figure: "us_per_req", peer: "nethttp", most: 0.3},
			{client: "http", figure: "us_per_req", peer: "nethttp", most: 0.3},
			{client: "own", figure: "us_per_req", peer: "floor"},
		},
	}
}

// rpcs returns RPCs of gRPC through connect-go, in a mode of the package work.
func rpcs(mode string, callers int, most float64) workload {
	n := 20000
	if callers == 1 {
		n = 5000
	}
	return workload{
		name: fmt.Sprintf("gRPC through connect-go, %s, 100 bytes, %s", mode,
			plural(callers, "caller")), server: "floor",
		mode: mode, callers: callers, requests: n, clients: clientsOfRPCs,
		goals: []goal{{client: "http", figure: "us_per_req", peer: "nethttp", most: most}},
	}
}

// plural returns n with the noun, in the plural if it is not 1.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// processors returns small requests over some connections, with one processor and with two.
func processors(conns, callers int) workload {
	return workload{
		name:   fmt.Sprintf("two processors, %s, %d callers", plural(conns, "connection"), callers),
		server: "floor",
		path:   "/1k", mode: "many", callers: callers, requests: 200_000, conns: conns,
		extra: []string{"-locks"}, rounds: 3,
		clients: []string{"own@1", "own@2", "http@1", "http@2", "nethttp@2"},
		goals: []goal{
			{client: "own@2", figure: "rps", peer: "own@1", most: 1, atLeast: true},
			{client: "http@2", figure: "rps", peer: "http@1", most: 1, atLeast: true},
			{client: "own@2", figure: "us_per_req", peer: "own@1"},
			{client: "own@2", figure: "lock_cpu", most: 0.05},
			{client: "http@2", figure: "lock_cpu", most: 0.05},
			{client: "nethttp@2", figure: "lock_cpu"},
			{client: "own@2", figure: "lock_part"},
			{client: "http@2", figure: "lock_part"},
			{client: "nethttp@2", figure: "lock_part"},
			{client: "http@2", figure: "us_per_req", peer: "nethttp@2"},
		},
	}
}
