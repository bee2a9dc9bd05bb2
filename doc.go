// Package hyper is an HTTP/2 client for programs that need the protocol's own controls: connections and streams in
// hand, pluggable flow control, server push, pings, settings, and errors that say what happened. It implements RFC 9113
// and RFC 7541, and descends from Python's hyper.
//
// A Conn is one connection, made by Dial or, over any net.Conn, by NewConn. Any number of goroutines share it:
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
// Do sends a Request with a body from any io.Reader; Open returns the Stream at once, to be written and read at
// the same time. A Response has its header in the wire's order, its body decoded (or Raw), its trailers, and the pushes
// that came with it.
//
// # Below http.Client
//
// Transport is an http.RoundTripper over many hosts, for http.Client and all that is written for it; a Conn is
// one over a single connection. ConfigureTransport lets an existing http.Transport speak HTTP/2 through hyper.
//
// # Flow control
//
// The peer may send only what a window allows. A WindowManager decides when the window moves: it hears what arrives and
// what is read, and answers with an increment. Config.WindowManager makes one for the connection and one for each
// stream; Request.WindowManager makes another one for a single stream. Adaptive, the default, gives a stream what path and
// reader can use, within a budget of the connection; Manual, Fixed and RateLimited are built in, too. A manager that breaks the rules ends what
// it is for with a *WindowManagerError and never the accounting; one that lets a reader wait is found by
// Config.WindowStallTimeout.
//
// # Errors
//
// A *StreamError ends one exchange, a *ConnError the connection with all of them; each has the code of RFC 9113 §7, for
// errors.Is(err, hyper.RefusedStream), and says whether the peer sent it. Retryable reports whether the peer has provably
// not processed the request. A *RequestError was found before anything was sent. What a context or a deadline ended
// is that context's or os.ErrDeadlineExceeded's error. The same call returns the same error each time.
//
// # Limits
//
// Everything that a peer can make the client keep or do is bounded; Config names the bounds that can be set, and the
// README lists all of them.
package hyper
