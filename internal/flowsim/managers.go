package flowsim

import (
	"context"
	"math"
	"time"

	"gohyper.dev/hyper"
)

// A subject is a way to manage windows. name is its name in tables and plots.
type subject struct {
	name   string
	config hyper.Config
	pings  func(pinger) hyper.WindowManagerFactory // makes the managers if they send PINGs; else nil
}

// subjects are the managers that the grid compares.
var subjects = []subject{
	{name: "AdaptiveWindow"},
	{name: "FixedWindow", config: hyper.Config{WindowManager: hyper.FixedWindow{}.New}},
	{name: "64 KiB", config: hyper.Config{
		WindowManager: hyper.ReadWindow{Stream: 65535, Connection: 65535}.New}},
	{name: "net/http", config: hyper.Config{InitialStreamWindow: netHTTPStream,
		WindowManager: static(netHTTPStream, netHTTPStep, netHTTPConnection)}},
	{name: "ReadWindow", config: hyper.Config{WindowManager: hyper.ReadWindow{}.New,
		InitialStreamWindow: 1 << 20}},
	{name: ".NET", config: hyper.Config{InitialStreamWindow: dotNetStream}, pings: dotNet},
	{name: "quic-go", config: hyper.Config{InitialStreamWindow: quicStream}, pings: quicGo},
	{name: "grpc-go", config: hyper.Config{InitialStreamWindow: grpcWindow}, pings: grpcGo},
}

// unlimited is the subject that the others are compared with. Its windows are never used up.
var unlimited = subject{name: "unlimited", config: hyper.Config{WindowManager: never,
	InitialStreamWindow: math.MaxInt32}}

// guess is AdaptiveWindow with a first window of 1 MiB.
var guess = subject{name: "Initial 1 MiB", config: hyper.Config{InitialStreamWindow: 1 << 20,
	WindowManager: hyper.AdaptiveWindow{Initial: 1 << 20}.New}}

// under returns the scenario in which the subject manages the windows.
func (s Scenario) under(m subject) Scenario {
	s.Config, s.Pings = m.config, m.pings
	return s
}

// connect makes the connection.
func (r *run) connect() (err error) {
	if r.Pings != nil {
		r.Config.WindowManager = r.Pings(r.ping)
	}
	r.conn, err = hyper.NewConn(context.Background(), r.socket, &r.Config)
	return err
}

// ping is the pinger of the run's managers.
func (r *run) ping(done func(rtt time.Duration)) {
	go func() {
		if rtt, err := r.conn.Ping(context.Background()); err == nil {
			done(rtt)
		}
	}()
}
