// Command driver does one piece of work with hyper, or net/http, and says what it cost this process, as one line of JSON. A
// measuring kit runs it beside other clients, on a core of its own.
//
//	driver -impl own  -mode get -url https://127.0.0.1:8443/1k -c 100 -n 80000
//	driver -impl http -mode down -url https://127.0.0.1:8443/256m -n 4 -cpuprofile cpu.out
//
// Certificates are not verified.
package main

import (
	"log"
	"os"

	"gohyper.dev/hyper/internal/bench/work"
)

func main() {
	log.SetFlags(0)
	if err := work.Main(os.Args[1:]); err != nil {
		log.Fatal("driver: ", err)
	}
}
