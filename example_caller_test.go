package hyper_test

import (
	"context"
	"fmt"
	"io"
	"sync"

	"gohyper.dev/hyper"
)

// Each goroutine has a Caller, so that its requests allocate nothing.
func ExampleCaller() {
	ctx := context.Background()
	conn := dial(hyper.Config{})
	defer conn.Close()

	paths := make(chan string)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			caller, buf := hyper.Caller{Conn: conn}, make([]byte, 64<<10)
			for path := range paths {
				resp, err := caller.Get(ctx, path)
				if err != nil {
					fmt.Println(err)
					continue
				}
				n, err := io.ReadFull(resp.Body, buf)
				resp.Body.Close()               // before the next call of Get, which invalidates resp
				if err == io.ErrUnexpectedEOF { // the body is smaller than buf
					fmt.Println(resp.StatusCode, string(buf[:n]))
				}
			}
		})
	}
	for _, name := range []string{"/a", "/b", "/c", "/d"} {
		paths <- name
	}
	close(paths)
	workers.Wait()
	// Unordered output:
	// 200 this is /a
	// 200 this is /b
	// 200 this is /c
	// 200 this is /d
}
