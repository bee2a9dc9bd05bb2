// Package flowlab is the door between a client's flow control and the simulator in internal/flowsim: the real windows, their
// managers and the frames that they cause, without a socket, without goroutines, and in the simulator's time. Package hyper
// fills in New; nothing but the simulator calls it.
package flowlab

import "time"

// New makes a client. Its config is a *hyper.Config.
var New func(config any, clock Clock) (Client, error)

// A Clock is the simulator's time.
type Clock interface {
	Now() time.Duration               // since the connection began
	After(d time.Duration, do func()) // calls do when d has passed
}

// A Client is the flow control of one connection. Its methods are what the network and the caller do; none may be called while
// another one runs.
type Client interface {
	// Open makes a request and returns its stream.
	Open() (stream uint32)
	// Headers is the response's, of length octets, -1 unknown.
	Headers(stream uint32, length int64)
	// Data is a DATA frame of n octets that has arrived. Its error is a window exceeded.
	Data(stream uint32, n int, end bool) error
	// Read consumes n octets that have arrived.
	Read(stream uint32, n int)
	// Starve is a reader who finds nothing and waits.
	Starve(stream uint32)
	// SettingsAck is the peer's acknowledgment of the preface's SETTINGS.
	SettingsAck() error
	// Pong is the peer's answer to a PING.
	Pong(data [8]byte) error
	// Output returns the frames to be sent since it was last called. Valid until the next call.
	Output() []byte
	// Window returns what the peer may send on a stream, 0 for the connection, and what it sent that is not read.
	Window(stream uint32) (credit, unread int)
	// Err is what ended the connection.
	Err() error
}
