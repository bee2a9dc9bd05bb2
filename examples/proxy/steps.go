package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
)

// send sends a request to the proxy.
func send(ctx context.Context, method, url string, body io.Reader, h http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	if h != nil {
		req.Header = h
	}
	return http.DefaultClient.Do(req)
}

// showStream sends a body in parts, each after the part before has come back.
func showStream(ctx context.Context, out io.Writer, base string) error {
	body, parts := io.Pipe()
	defer parts.Close()
	resp, err := send(ctx, "POST", base+"/echo", body, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for _, part := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(parts, part); err != nil {
			return err
		}
		came := make([]byte, len(part))
		if _, err := io.ReadFull(resp.Body, came); err != nil || string(came) != part {
			return fmt.Errorf("part %q came back as %q: %v", part, came, err)
		}
		fmt.Fprintf(out, "part %q came back before the next was sent\n", came)
	}
	parts.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		return fmt.Errorf("at the end: %q, %v", rest, err)
	}
	return nil
}

// showTrailers sends trailers and receives others.
func showTrailers(ctx context.Context, out io.Writer, base string) error {
	req, err := http.NewRequestWithContext(ctx, "POST", base+"/trailers",
		io.MultiReader(strings.NewReader("a body")))
	if err != nil {
		return err
	}
	req.Trailer = http.Header{"Part": {"42"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if got := resp.Trailer.Get("Sum"); got != "of 42" {
		return fmt.Errorf("trailers %v", resp.Trailer)
	}
	fmt.Fprintf(out, "trailers sent %v, received %v\n", req.Trailer, resp.Trailer)
	return nil
}

// showInterim receives a 103 (Early Hints) response before the final one.
func showInterim(ctx context.Context, out io.Writer, base string) error {
	interim := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			interim++
			fmt.Fprintf(out, "interim response %d, Link: %s\n", status, header.Get("Link"))
			return nil
		},
	})
	resp, err := send(ctx, "GET", base+"/early", nil, nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if interim != 1 || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d interim responses, then %s", interim, resp.Status)
	}
	return nil
}

// showUpgrade opens a WebSocket (RFC 6455 §4.1) and sends bytes both ways. The proxy does not look
// into them, so they need not be WebSocket's frames.
func showUpgrade(ctx context.Context, out io.Writer, base string) error {
	resp, err := send(ctx, "GET", base+"/socket", nil, http.Header{"Connection": {"Upgrade"},
		"Upgrade": {"websocket"}, "Sec-WebSocket-Version": {"13"},
		"Sec-WebSocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	socket, ok := resp.Body.(io.ReadWriter)
	if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("no upgrade: %s", resp.Status)
	}
	if _, err := io.WriteString(socket, "any bytes"); err != nil {
		return err
	}
	came := make([]byte, len("any bytes"))
	if _, err := io.ReadFull(socket, came); err != nil {
		return err
	}
	fmt.Fprintf(out, "upgraded to %s: %q came back\n", resp.Header.Get("Upgrade"), came)
	return nil
}

// showErrors sends a request that the upstream resets.
func showErrors(ctx context.Context, out io.Writer, base string) error {
	resp, err := send(ctx, "POST", base+"/broken", nil, nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway {
		return fmt.Errorf("an upstream that resets the stream: %s", resp.Status)
	}
	fmt.Fprintln(out, "an upstream that resets the stream:", resp.Status)
	return nil
}
