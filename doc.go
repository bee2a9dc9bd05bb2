// Package hyper is an HTTP/2 client for programs that need the protocol's own controls: direct use
// of connections and streams, pluggable flow control, server push, pings, settings, and errors that
// say what happened. It implements RFC 9113 and RFC 7541. It descends from Python's hyper.
//
// # Connections
//
// A Conn is one connection. Dial makes one from an address, NewConn from any net.Conn. Any number
// of goroutines may share it:
//
//	conn, err := hyper.Dial(ctx, "example.com", nil)
//	if err != nil {
//		return err
//	}
//	defer conn.Close()
//	resp, err := conn.Get(ctx, "/")
//	if err != nil {
//		return err
//	}
//	defer resp.Body.Close()
//	_, err = io.Copy(os.Stdout, resp.Body)
//
// A Config has the options of a connection. Its zero value makes a good client.
//
// # Requests and responses
//
// Get sends a request for a path. Do sends a Request, with a Header of its own and a body from any
// io.Reader:
//
//	resp, err := conn.Do(ctx, &hyper.Request{
//		Method: "POST",
//		Path:   "/items",
//		Header: hyper.Header{{Name: "content-type", Value: "application/json"}},
//		Body:   strings.NewReader(`{"name": "a"}`),
//	})
//
// A Response has its header in the order received, its body decoded (or unchanged, with Raw), its
// trailers, and the pushes that came with it.
//
// A Caller has the same methods for the exchanges of one goroutine, which use the same memory one
// after the other, so that a small request allocates nothing.
//
// # Streams
//
// Open sends the header of a request and returns its Stream at once. The caller writes the request
// and reads the response in any order, or both at the same time:
//
//	stream, err := conn.Open(ctx, &hyper.Request{Method: "POST", Path: "/echo"})
//	if err != nil {
//		return err
//	}
//	go func() {
//		io.WriteString(stream, "hello")
//		stream.CloseWrite()
//	}()
//	resp, err := stream.Response(ctx)
//
// Reset ends a stream early, Done and Err tell when and why it ended, and SetDeadline bounds its
// reads and writes. NetConn makes a net.Conn of a CONNECT stream; Conn.Connect opens a tunnel and
// does that in one call. Response.Stream returns the stream of any response.
//
// A WebSocket over HTTP/2 (RFC 8441) is the stream of a CONNECT with Request.Protocol "websocket".
// Programs that use http.Client, or a WebSocket library that takes one, get it through a Transport,
// which carries their handshake over HTTP/2 where the server allows that.
//
// # Priorities
//
// Request.Priority says how urgent a request is (RFC 9218), and Stream.SetPriority changes that
// later. The peer may use it to order its responses, and hyper orders the bodies that it sends by
// it. Bodies without a priority take turns.
//
// # Flow control
//
// The peer may send only what a flow-control window allows. A WindowManager decides when to enlarge
// the window: it is told what arrives and what is read, and returns an increment.
// Config.WindowManager makes one manager for the connection and one for each stream.
// Request.WindowManager makes another one for a single stream.
//
// AdaptiveWindow, the default, gives each stream what the network path and the reader can use,
// within a budget for the connection. ReadWindow, FixedWindow and RateLimitedWindow are built in as
// well.
//
// A manager that breaks the rules ends its stream, or the connection if it is the connection's
// manager, with a *WindowManagerError. The accounting of the windows stays correct.
// Config.WindowBlockedTimeout finds a manager that lets a reader wait.
//
// # Server push
//
// Config.Push admits pushes. Response.Pushes yields those that the peer promises with a response,
// and Push.Response waits for the pushed response.
//
// # Below http.Client
//
// Transport is an http.RoundTripper for many hosts. It works with http.Client and with all code
// that uses an http.RoundTripper. A Conn is an http.RoundTripper for a single connection.
// ConfigureTransport makes an existing http.Transport use hyper for HTTP/2.
//
// WithRequest and WithResponse give access to the Request and the Response below an http.Request,
// and RequestFromHTTP, ResponseFromHTTP and HeaderFromHTTP convert from net/http's types.
//
// # Errors
//
// A *StreamError ends one exchange. A *ConnError ends the connection with all its exchanges. Each
// has the code of RFC 9113 §7, for errors.Is(err, hyper.ErrCodeRefusedStream), and says whether the
// peer sent it. Retryable reports whether the peer has provably not processed the request.
//
// A *RequestError was found before anything was sent. A call that a context ends returns that
// context's error; one that a deadline ends returns os.ErrDeadlineExceeded. The same call returns
// the same error each time.
//
// The text of an error begins with "hyper: " and names the stream, or the peer's host and address.
// RoundTrip returns some errors with the texts of net/http, because programs look for those.
//
// # Testing and observing
//
// NewConn works on one end of a net.Pipe, and inside of a testing/synctest bubble, so a test can
// play the server without a network. Conn.Stats, Stream.Stats, Transport.Stats and Transport.OnConn
// are for metrics and logs.
//
// Config.Trace is called for each frame, and for other steps of a connection. TraceTo writes the
// frames as lines of text, SlogTrace as records of log/slog. HAR makes an HTTP archive for the
// network panel of a browser, and Waterfall a page that shows streams, windows and frames. None of
// them shows credentials. Conn.Dump writes the state of a connection. With Config.KeepFrames, it
// and the errors of the connection have the last frames.
//
// Wireshark decodes the connection if crypto/tls logs its keys, with Config.TLS set to
// &tls.Config{KeyLogWriter: file}. A capture of port 443 is then shown by
//
//	tshark -r capture.pcap -o tls.keylog_file:keys.txt -Y http2
//
// For another port, add -d tcp.port==8443,tls.
//
// # Tests of servers
//
// A test of a server can say exactly what is sent, whether it is valid or not. Request.Unchecked
// sends fields as they are; Request.Framing adds padding, cuts field blocks into CONTINUATION
// frames, and chooses the HPACK form of each field; Conn.WriteFrame sends any frame:
//
//	s, err := conn.Open(ctx, &hyper.Request{Unchecked: true, Header: fields})
//	if err != nil {
//		return err
//	}
//	err = conn.WriteFrame(ctx,
//		hyper.DataFrame(s.ID(), 0, []byte("half")),
//		hyper.HeadersFrame(s.ID(), hyper.FlagEndHeaders, hyper.FieldBlock(malformed)))
//
// Config.Wire replaces the frames after the client preface, and shows each frame of the server to
// OnFrame. Conn.Batch makes what a function sends leave in one write. Whatever is sent, the
// connection's windows, compression tables and stream identifiers stay in step with the server, so
// other streams go on. The package examples/servertest has tests to copy.
//
// # Limits
//
// Everything that a peer can make the client store or do is bounded. Config names the bounds that
// can be set; .github/LIMITS.md in the repository lists all of them.
package hyper
