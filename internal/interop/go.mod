module gohyper.dev/hyper/internal/interop

go 1.26.0

require (
	github.com/refraction-networking/utls v1.8.2
	gohyper.dev/hyper v0.0.0
	golang.org/x/net v0.62.0
)

require (
	github.com/andybalholm/brotli v1.2.8 // indirect
	github.com/klauspost/compress v1.17.4 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace gohyper.dev/hyper => ../..
