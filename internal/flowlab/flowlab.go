// Package flowlab connects a client's flow control to the simulator in internal/flowsim. The
// simulator runs the real windows, their managers and the frames that they cause, without a socket
// and without goroutines, in simulated time. Package hyper sets New, and only the simulator calls
// it.
package flowlab

import "time"

// New makes a client. config is a *hyper.Config.
var New func(config any, clock Clock) (Client, error)

// A Clock is the simulator's time.
type Clock interface {
	Now() time.Duration               // time since the connection began
	After(d time.Duration, do func()) // calls do after d
}

// A Client is the flow control of one connection. Its methods stand for what the network and the
// caller do. They must not be called concurrently.
type Client interface {
	// Open makes a request and returns its stream.
	Open() (stream uint32)
	// Headers tells that the header of the response has arrived. length is the length of the body
	// in bytes, -1 if unknown.
	Headers(stream uint32, length int64)
	// Data tells that a DATA frame of n bytes has arrived. It returns an error if the frame exceeds
	// a window.
	Data(stream uint32, n int, end bool) error
	// Read consumes n bytes that have arrived.
	Read(stream uint32, n int)
	// Starve tells that a reader finds no data and waits.
	Starve(stream uint32)
	// SettingsAck tells that the peer has acknowledged the SETTINGS of the preface.
	SettingsAck() error
	// Pong tells that the peer has acknowledged a PING.
	Pong(data [8]byte) error
	// Output returns the frames to be sent since the previous call. They are valid until the next
	// call.
	Output() []byte
	// Window returns how many bytes the peer may still send on a stream, and how many received
	// bytes are unread. Stream 0 is the connection.
	Window(stream uint32) (credit, unread int)
	// Err returns the error that ended the connection.
	Err() error
}
