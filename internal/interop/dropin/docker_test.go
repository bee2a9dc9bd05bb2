package dropin

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// A dockerServer has the part of the Docker Engine API that the client needs. It has one container
// that can be created, started, attached to and waited for, with its logs, and events.
type dockerServer struct {
	mu     sync.Mutex // guards the fields below
	name   string
	state  string
	goAway bool
}

// ServeHTTP serves the API.
func (s *dockerServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Api-Version", "1.47")
	w.Header().Set("Ostype", "linux")
	w.Header().Set("Content-Type", "application/json")
	if s.goAway {
		w.Header().Set("Connection", "close") // Go's server sends GOAWAY
	}
	path := r.URL.Path
	if strings.HasPrefix(path, "/v1.") {
		path = path[strings.Index(path[1:], "/")+1:]
	}
	switch r.Method + " " + path {
	case "HEAD /_ping", "GET /_ping":
		io.WriteString(w, "OK")
	case "POST /containers/create":
		s.name, s.state = r.URL.Query().Get("name"), "created"
		w.WriteHeader(201)
		io.WriteString(w, `{"Id":"c1","Warnings":["no swap"]}`)
	case "POST /containers/c1/start":
		s.state = "running"
		w.WriteHeader(204)
	case "GET /containers/json":
		json.NewEncoder(w).Encode([]map[string]any{{"Id": "c1", "Names": []string{"/" + s.name},
			"State": s.state}})
	case "GET /containers/c1/logs":
		w.Header().Set("Content-Type", "application/vnd.docker.multiplexed-stream")
		s.logs(w, r.URL.Query().Get("follow") == "1", r.Context())
	case "POST /containers/c1/wait":
		w.(http.Flusher).Flush()
		io.WriteString(w, `{"StatusCode":7}`)
	case "POST /containers/c1/attach":
		s.attach(w)
	case "GET /events":
		for i := range 5 {
			fmt.Fprintf(w, `{"Type":"container","Action":"start","Actor":{"ID":"c%d"}}`, i)
			w.(http.Flusher).Flush()
		}
		s.mu.Unlock()
		<-r.Context().Done()
		s.mu.Lock()
	case "POST /images/create":
		for i := range 20 {
			fmt.Fprintf(w, `{"status":"Downloading","id":"layer","progressDetail":{"current":%d,"total":20}}`,
				i)
			w.(http.Flusher).Flush()
		}
	default:
		w.WriteHeader(404)
		io.WriteString(w, `{"message":"No such container"}`)
	}
}

// logs writes stdout and stderr as Docker multiplexes them.
func (s *dockerServer) logs(w http.ResponseWriter, follow bool, ctx context.Context) {
	for i := range 50 {
		line := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 1000))
		head := make([]byte, 8)
		head[0] = byte(1 + i%2)
		binary.BigEndian.PutUint32(head[4:], uint32(len(line)))
		w.Write(append(head, line...))
		w.(http.Flusher).Flush()
	}
	if follow {
		s.mu.Unlock()
		defer s.mu.Lock()
		<-ctx.Done()
	}
}

// attach takes over the connection from HTTP/1.1 and echoes what the client sends.
func (s *dockerServer) attach(w http.ResponseWriter) {
	hijacker, ok := w.(http.Hijacker)
	if u, unwraps := w.(interface{ Unwrap() http.ResponseWriter }); unwraps && !ok {
		hijacker, ok = u.Unwrap().(http.Hijacker)
	}
	if !ok {
		w.WriteHeader(400)
		return
	}
	conn, rw, err := hijacker.Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"+
		"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	io.Copy(conn, io.LimitReader(rw, 5))
}

// docker returns a client of the daemon at url. WithHost accepts no transport other than
// *http.Transport, so it comes before WithHTTPClient. WithHTTPClient copies an *http.Transport, and
// the copy does not have what ConfigureTransport registered. The transport is therefore hidden.
func (l *lane) docker(url string, options ...client.Opt) *client.Client {
	c, err := client.New(append([]client.Opt{
		client.WithHost("tcp://" + strings.TrimPrefix(url, "https://")), client.WithScheme("https"),
		client.WithHTTPClient(&http.Client{Transport: hidden{l.Transport},
			CheckRedirect: client.CheckRedirect}),
	}, options...)...)
	l.Must(err)
	return c
}

// hidden hides the type of a transport.
type hidden struct{ http.RoundTripper }

func TestDocker(t *testing.T) { compareAll(t, useDocker) }

// useDocker runs a container.
func useDocker(l *lane) {
	l.Loose = true
	server := &dockerServer{}
	url := l.Serve(server)
	c, ctx := l.docker(url), l.Context()
	ping, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	l.Must(err)
	l.Report("ping: %s %s, then %s", ping.APIVersion, ping.OSType, c.ClientVersion())
	pull, err := c.ImagePull(ctx, "registry.example/image:tag", client.ImagePullOptions{})
	l.Must(err)
	n := 0
	for _, err := range pull.JSONMessages(ctx) {
		l.Must(err)
		n++
	}
	l.Report("pull: %d messages", n)
	for _, goAway := range []bool{false, true} {
		server.mu.Lock()
		server.goAway = goAway
		server.mu.Unlock()
		made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Image: "image",
			Name: fmt.Sprint("name-", goAway)})
		l.Must(err)
		_, err = c.ContainerStart(ctx, made.ID, client.ContainerStartOptions{})
		l.Must(err)
		list, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
		l.Must(err)
		l.Report("made %s %v: %v %s", made.ID, made.Warnings, list.Items[0].Names, list.Items[0].State)
		options := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
		logs, err := c.ContainerLogs(ctx, made.ID, options)
		l.Must(err)
		var out, errs strings.Builder
		_, err = stdcopy.StdCopy(&out, &errs, logs)
		l.Must(err)
		logs.Close()
		wait := c.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{})
		select {
		case res := <-wait.Result:
			l.Report("logs: %d and %d bytes; ended with %d", out.Len(), errs.Len(), res.StatusCode)
		case err := <-wait.Error:
			l.Fatal(err)
		}
	}
	_, err = c.ContainerInspect(ctx, "c2", client.ContainerInspectOptions{})
	l.Report("not there: %v, %v", errdefs.IsNotFound(err), err)
	useDockerStreams(l, c)

	_, err = l.docker(l.Refused()).Ping(ctx, client.PingOptions{})
	l.Report("refused: connection failed %v", client.IsErrConnectionFailed(err))
	l.Try("list", url, func(ctx context.Context, url string) (string, error) {
		list, err := l.docker(url, client.WithAPIVersion("1.47")).ContainerList(ctx,
			client.ContainerListOptions{})
		if err != nil {
			return "", err
		}
		return list.Items[0].Names[0], nil
	})
}

// useDockerStreams ends streams that would never end by themselves.
func useDockerStreams(l *lane, c *client.Client) {
	ctx, cancel := context.WithCancel(l.Context())
	events := c.Events(ctx, client.EventsListOptions{})
	for range 5 {
		select {
		case m := <-events.Messages:
			l.Report("event %s %s %s", m.Type, m.Action, m.Actor.ID)
		case err := <-events.Err:
			l.Fatal(err)
		}
	}
	cancel()
	l.Fails("events canceled", <-events.Err)

	ctx, cancel = context.WithTimeout(l.Context(), time.Second)
	defer cancel()
	logs, err := c.ContainerLogs(ctx, "c1", client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	l.Must(err)
	n, err := io.Copy(io.Discard, logs)
	// The client also closes the body then, so that there are two possible errors.
	l.Report("logs followed to a deadline: failed %v, %d bytes", err != nil, n)
	logs.Close()
}

// TestDockerClientAndTransports checks what the README says about Docker's client.
func TestDockerClientAndTransports(t *testing.T) {
	compareAll(t, func(l *lane) {
		l.Loose = true
		url := l.Serve(&dockerServer{name: "name"})
		host := client.WithHost("tcp://" + strings.TrimPrefix(url, "https://"))
		_, isStandard := l.Transport.(*http.Transport)
		_, err := client.New(client.WithHTTPClient(l.Client()), host)
		if refused := err != nil; refused == isStandard {
			l.Errorf("WithHost after WithHTTPClient: %v", err)
		}

		// Attach dials itself. It uses TLS with the configuration of an *http.Transport, and
		// cleartext with other transports.
		plain := l.plainDocker()
		mine := client.WithHTTPClient(&http.Client{Transport: hidden{l.Transport}})
		c, err := client.New(client.WithHost("tcp://"+plain), mine)
		l.Must(err)
		options := client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true}
		attached, err := c.ContainerAttach(l.Context(), "c1", options)
		l.Must(err)
		defer attached.Close()
		_, err = io.WriteString(attached.Conn, "hello")
		l.Must(err)
		echo, err := io.ReadAll(attached.Reader)
		l.Must(err)
		l.Report("attached in cleartext: %s", echo)
		_, err = l.docker(url).ContainerAttach(l.Context(), "c1", client.ContainerAttachOptions{Stream: true})
		l.Report("attached over TLS without an *http.Transport: fails %v", err != nil)
	})
}

// plainDocker starts a daemon without TLS and returns its address.
func (l *lane) plainDocker() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	l.Must(err)
	server := &http.Server{Handler: &dockerServer{}}
	go server.Serve(listener)
	l.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}

// TestDockerCopiesTheTransport checks that WithHTTPClient copies an *http.Transport, and that the
// copy speaks HTTP/2 through net/http.
func TestDockerCopiesTheTransport(t *testing.T) {
	var frames atomic.Int64
	tr := &http.Transport{TLSClientConfig: h2test.ClientTLS()}
	trace := func(hyper.TraceEvent) { frames.Add(1) }
	if err := hyper.ConfigureTransport(tr, &hyper.Config{Trace: trace}); err != nil {
		t.Fatal(err)
	}
	var protocol atomic.Value
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocol.Store(r.Proto)
		io.WriteString(w, "[]")
	}))
	server.EnableHTTP2, server.TLS = true, h2test.ServerTLS()
	server.StartTLS()
	defer server.Close()
	mine := client.WithHTTPClient(&http.Client{Transport: tr})
	c, err := client.New(mine, client.WithHost("tcp://"+server.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ContainerList(t.Context(), client.ContainerListOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := protocol.Load(); got != "HTTP/2.0" || frames.Load() != 0 {
		t.Errorf("%v with %d frames of hyper's: say so in the README if that has changed", got, frames.Load())
	}
}
