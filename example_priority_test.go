package hyper_test

import (
	"fmt"
	"io"
	"log"
	"strings"

	"gohyper.dev/hyper"
)

// Bodies of a lower urgency number are sent before others, and the peer may order its responses in
// the same way.
func ExamplePriority() {
	conn := dial(hyper.Config{})
	defer conn.Close()

	backup, err := conn.Open(ctx, &hyper.Request{Method: "POST", Path: "/upload",
		Priority: hyper.Priority{Urgency: hyper.LeastUrgent, Incremental: true}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(body(conn.Do(ctx, &hyper.Request{Method: "POST", Path: "/upload",
		Body: strings.NewReader("now"), Priority: hyper.Priority{Urgency: 1}})))

	// The backup has become urgent.
	if err := backup.SetPriority(hyper.Priority{Urgency: hyper.MostUrgent}); err != nil {
		log.Fatal(err)
	}
	io.WriteString(backup, "everything")
	backup.CloseWrite()
	fmt.Println(body(backup.Response(ctx)))
	// Output:
	// 3 octets, 3 announced
	// 10 octets, -1 announced
}
