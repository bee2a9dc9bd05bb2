// This file measures the CPU time of get bench.

//go:build !unix

package main

import "time"

// cpuTime returns the CPU time of this process, which is not known here.
func cpuTime() time.Duration { return 0 }
