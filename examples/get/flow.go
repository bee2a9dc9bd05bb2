// This file limits transfers by their flow-control windows.

package main

import (
	"github.com/spf13/pflag"

	"gohyper.dev/hyper"
)

// flowOptions are the limits of what the server may send.
type flowOptions struct {
	rate   size // bytes a second, of each URL; 0: no limit
	window size // bytes; 0: that of hyper.AdaptiveWindow
}

// addFlags adds the flags.
func (o *flowOptions) addFlags(f *pflag.FlagSet) {
	const rate = "transfer at most this many `bytes` a second for each URL, such as 500k"
	f.Var(&o.rate, "rate", rate+"; the server is held to it by flow control")
	f.Var(&o.rate, "limit-rate", "the same")
	o.addWindow(f)
}

// addWindow adds the flag of the window.
func (o *flowOptions) addWindow(f *pflag.FlagSet) {
	f.Var(&o.window, "window",
		"give each stream a flow-control window of this many `bytes`, such as 1m, and not an adaptive one")
}

// The windows of connections.
const (
	initialWindow = 64<<10 - 1 // of a stream (RFC 9113 §6.9.2)
	connWindow    = 64 << 20
)

// apply sets the windows in cfg.
func (o *flowOptions) apply(cfg *hyper.Config) {
	stream := int(o.window)
	if stream > 0 {
		cfg.InitialStreamWindow = stream
		cfg.WindowManager = hyper.ReadWindow{Stream: stream, Connection: max(connWindow, stream)}.New
	}
	if rate := int(o.rate); rate > 0 {
		if stream == 0 { // the initial window arrives at once, whatever the rate is
			cfg.InitialStreamWindow = min(initialWindow, max(1, rate/4))
		}
		cfg.WindowManager = hyper.RateLimitedWindow{PerSecond: rate, Burst: stream}.New
	}
}
