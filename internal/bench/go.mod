module gohyper.dev/hyper/internal/bench

go 1.26.0

require gohyper.dev/hyper v0.0.0

require (
	github.com/andybalholm/brotli v1.2.8 // indirect
	golang.org/x/net v0.62.0 // indirect
)

replace gohyper.dev/hyper => ../..
