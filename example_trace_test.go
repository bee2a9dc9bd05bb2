package hyper_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"gohyper.dev/hyper"
)

// An archive of all requests of a connection, for the network panel of a browser.
func ExampleHAR() {
	var archive hyper.HAR
	conn := dial(hyper.Config{Authority: "example.com", Trace: archive.Trace})
	body(conn.Do(ctx, &hyper.Request{Path: "/page?id=1",
		Header: hyper.Header{{Name: "authorization", Value: "Bearer secret"}}}))
	conn.Close()

	var file bytes.Buffer // or os.Create("requests.har")
	if _, err := archive.WriteTo(&file); err != nil {
		log.Fatal(err)
	}
	var har struct {
		Log struct {
			Entries []struct {
				Request struct {
					Method, URL string
					Headers     []struct{ Name, Value string }
				}
				Response struct{ Status int }
			}
		}
	}
	if err := json.Unmarshal(file.Bytes(), &har); err != nil {
		log.Fatal(err)
	}
	for _, e := range har.Log.Entries {
		fmt.Println(e.Request.Method, e.Request.URL, e.Response.Status)
		for _, f := range e.Request.Headers {
			if !strings.HasPrefix(f.Name, ":") {
				fmt.Println(" ", f.Name, f.Value)
			}
		}
	}
	// Output:
	// GET https://example.com/page?id=1 200
	//   authorization [13 bytes]
	//   user-agent hyper
	//   accept-encoding gzip, deflate, br
}

// A page that shows the connection: its streams as bars, its windows as curves.
func ExampleWaterfall() {
	var waterfall hyper.Waterfall
	conn := dial(hyper.Config{Authority: "example.com", Trace: waterfall.Trace})
	body(conn.Get(ctx, "/"))
	conn.Close()

	var page strings.Builder // or os.Create("connection.html")
	if _, err := waterfall.WriteTo(&page); err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.HasPrefix(page.String(), "<!DOCTYPE html>"))
	// Output:
	// true
}

// The frames of a connection as records of log/slog, at the level Debug.
func ExampleSlogTrace() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "conn" {
				return slog.Attr{} // to make the output of this example always the same
			}
			return a
		}}))
	trace := hyper.SlogTrace{Logger: logger}
	conn := dial(hyper.Config{Authority: "example.com", Trace: func(e hyper.TraceEvent) {
		if e.StreamID == 1 && e.Kind == hyper.TraceFrame {
			trace.Trace(e)
		}
	}})
	body(conn.Get(ctx, "/undated"))
	conn.Close()
	// Output:
	// level=DEBUG msg=HEADERS stream=1 sent=true length=41 flags=5
	// level=DEBUG msg=HEADERS stream=1 sent=false length=25 flags=4
	// level=DEBUG msg=DATA stream=1 sent=false length=11 flags=1
}

// What has been received of a response, and when each step happened.
func ExampleStream_Stats() {
	conn := dial(hyper.Config{StreamTimes: true})
	defer conn.Close()
	resp, err := conn.Do(ctx, &hyper.Request{Path: "/file"})
	if err != nil {
		log.Fatal(err)
	}
	body(resp, nil)
	stats := resp.Stats()
	fmt.Println(stats.BytesRead, "of", stats.BytesReceived, "bytes read")
	fmt.Println("began within a minute:", stats.ResponseBegan.Sub(stats.Opened) < time.Minute)
	fmt.Println("ended within a minute:", stats.ResponseEnded.Sub(stats.Opened) < time.Minute)
	// Output:
	// 1048576 of 1048576 bytes read
	// began within a minute: true
	// ended within a minute: true
}
