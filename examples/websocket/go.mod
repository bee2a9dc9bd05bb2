module gohyper.dev/hyper/examples/websocket

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/gobwas/ws v1.4.0
	gohyper.dev/hyper v0.0.0
)

require (
	github.com/andybalholm/brotli v1.2.8 // indirect
	github.com/gobwas/httphead v0.1.0 // indirect
	github.com/gobwas/pool v0.2.1 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace gohyper.dev/hyper => ../..
