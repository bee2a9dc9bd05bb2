package hyper_test

import (
	"crypto/tls"
	"encoding/json"
	"expvar"
	"fmt"
	"log"
	"net/http"

	"gohyper.dev/hyper"
)

// The figures of a Transport can be published at /debug/vars. For Prometheus see
// examples/prometheus.
func ExampleTransport_Stats_expvar() {
	transport := &hyper.Transport{Config: config()}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()

	figures := expvar.Func(func() any { return transport.Stats() })
	if expvar.Get("http2") == nil { // expvar panics if a name is published twice
		expvar.Publish("http2", figures)
	}

	for range 3 {
		text(client.Get(server().URL + "/hello"))
	}
	client.Post(server().URL+"/broken", "text/plain", nil)

	var shown struct {
		Total struct {
			Requests, ConnsOpened int64
			ResetsReceived        map[string]int64
		}
	}
	if err := json.Unmarshal([]byte(figures.String()), &shown); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", shown.Total)
	// Output: {Requests:4 ConnsOpened:1 ResetsReceived:map[INTERNAL_ERROR:1]}
}

// A log of connections says why each of them ended. OnConn runs on a goroutine of its own, so it
// may be slow.
func ExampleTransport_onConn() {
	events := make(chan hyper.ConnEvent)
	transport := &hyper.Transport{Config: config(), OnConn: func(e hyper.ConnEvent) { events <- e }}
	client := &http.Client{Transport: transport}

	text(client.Get(server().URL + "/hello"))
	for _, c := range transport.Conns() {
		fmt.Println("now:", c.State)
	}
	client.CloseIdleConnections()
	for e := range events {
		switch e.Kind {
		case hyper.ConnOpened:
			fmt.Println(e.Kind)
		case hyper.ConnDraining, hyper.ConnFailed:
			fmt.Println(e.Kind, e.Reason, e.Err)
		case hyper.ConnClosed:
			fmt.Println(e.Kind, e.Reason, "requests:", e.Conn.Stats().StreamsOpened)
			return
		}
	}
	// Output:
	// now: idle
	// opened
	// closed close_idle requests: 1
}

// A Monitor shows the connections that an http.Transport gets through hyper.
func ExampleMonitor() {
	monitor := &hyper.Monitor{}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots()}}
	if err := hyper.ConfigureTransport(transport, &hyper.Config{Monitor: monitor}); err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()

	text(client.Get(server().URL + "/hello"))
	s := monitor.Stats().Total
	fmt.Println(s.Requests, "request on", s.ConnsOpen, "connection")
	// Output: 1 request on 1 connection
}

// A caller's own pool can move to another connection before requests fail.
func ExampleConn_Draining() {
	conn := dial(hyper.Config{})
	fmt.Println("takes requests:", conn.Available() > 0)

	go conn.Shutdown(ctx) // draining also begins when the peer sends GOAWAY
	<-conn.Draining()
	if goAway, ok := conn.GoAway(); ok && goAway.Code != hyper.ErrCodeNo {
		fmt.Println("the peer sent", goAway.Code, string(goAway.Debug))
	}
	fmt.Println("takes requests:", conn.Available() > 0)
	<-conn.Done()
	// Output:
	// takes requests: true
	// takes requests: false
}
