module gohyper.dev/hyper

go 1.26.0

require (
	github.com/andybalholm/brotli v1.2.8
	golang.org/x/net v0.62.0
)
