//go:build !linux

package flowsim

import (
	"errors"
	"net"
)

// An optionFD keeps the options of a socket. There are none on this system.
type optionFD int

func newOptionFD() (optionFD, error) { return 0, errors.ErrUnsupported }

func (optionFD) notSent() int                     { return 0 }
func (optionFD) close()                           {}
func (optionFD) Control(func(fd uintptr)) error   { return net.ErrClosed }
func (optionFD) Read(func(fd uintptr) bool) error { return net.ErrClosed }

func (optionFD) Write(func(fd uintptr) bool) error { return net.ErrClosed }
