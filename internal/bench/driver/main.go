// Command driver does one piece of work with hyper or net/http, and prints as a line of JSON what
// it cost this process. Measuring kits run it next to other clients, on its own core.
//
//	driver -impl own  -mode get -url https://127.0.0.1:8443/1k -c 100 -n 80000
//	driver -impl http -mode down -url https://127.0.0.1:8443/256m -n 4 -cpuprofile cpu.out
//
// It does not verify certificates.
package main

import (
	"log"
	"os"

	"gohyper.dev/hyper/internal/bench/work"
)

// main runs the work that the flags describe.
func main() {
	log.SetFlags(0)
	if err := work.Main(os.Args[1:]); err != nil {
		log.Fatal("driver: ", err)
	}
}
