//go:build !linux

package main

import (
	"context"
	"fmt"
	"runtime"
)

// A network cannot be made on this system.
type network struct{}

// newNetwork returns errNoNetwork.
func newNetwork(context.Context, path) (*network, error) {
	return nil, fmt.Errorf("%w: not on %s", errNoNetwork, runtime.GOOS)
}

// close does nothing.
func (*network) close() {}

// inside returns command.
func (*network) inside(side int, command ...string) []string { return command }

// serverAddr is the address that a server would have.
const serverAddr = "127.0.0.1"
