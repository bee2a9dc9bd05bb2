package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"gohyper.dev/hyper"
)

// An Uploader sends content to one resource. It is the client of
// draft-ietf-httpbis-resumable-upload: the server names a resource for the upload by an interim
// response with status 104, reports its offset in the response to HEAD, and receives the rest by
// PATCH.
type Uploader struct {
	Dial func(ctx context.Context) (*hyper.Conn, error)
	URL  *url.URL // of the resource that the content is sent to

	// Progress is called from time to time with what the socket has accepted. It may be nil.
	Progress func(sent int64)

	// OnResume is called where an upload goes on, with the error that stopped it: not with those of
	// the attempts to connect again. It may be nil.
	OnResume func(offset int64, stopped error)

	// Upload gives up after MaxAttempts attempts in turn after which the server has nothing new,
	// and when MaxWait has passed since the first of them. Zero means 20 attempts, and one minute.
	MaxAttempts int
	MaxWait     time.Duration
}

// The limits of an upload.
const (
	maxAnswer     = 1 << 20 // bytes of the server's answer
	maxAttempts   = 20      // the default of Uploader.MaxAttempts
	maxWait       = time.Minute
	firstPause    = 100 * time.Millisecond // pauses between attempts double up to maxPause
	maxPause      = 5 * time.Second
	progressEvery = 50 * time.Millisecond
)

// An upload is the state that survives a connection.
type upload struct {
	*Uploader
	content  io.ReaderAt
	size     int64
	location *url.URL // of the upload's resource; nil: not known yet
	offset   int64    // what the server has
	stopped  error    // what stopped the request before; nil: there was none
}

// A refusal is a response after which the upload cannot go on.
type refusal struct{ reason string }

func (r *refusal) Error() string { return "the server " + r.reason }

// Upload sends size bytes of content and returns the server's answer. After errors of the network
// it connects again. It ends with ctx, and where the server has received nothing new for too long.
func (u *Uploader) Upload(ctx context.Context, content io.ReaderAt, size int64) (answer string, err error) {
	up := &upload{Uploader: u, content: content, size: size}
	var fruitless retries
	for {
		before := up.offset
		answer, err := up.attempt(ctx)
		var refused *refusal
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
			return answer, err
		}
		if up.offset > before {
			fruitless = retries{}
			continue
		}
		if err := fruitless.pause(ctx, u, err); err != nil {
			return "", err
		}
	}
}

// A retries counts attempts in turn after which the server has nothing new.
type retries struct {
	n     int
	first time.Time // the end of the first
	wait  time.Duration
}

// pause waits until it is time for the next attempt. It fails if there should be none. err is the
// error of the attempt that has ended.
func (r *retries) pause(ctx context.Context, u *Uploader, err error) error {
	if r.n++; r.n == 1 {
		r.first, r.wait = time.Now(), firstPause
	}
	passed := time.Since(r.first)
	left := cmp.Or(u.MaxWait, maxWait) - passed
	if left <= 0 || r.n >= cmp.Or(u.MaxAttempts, maxAttempts) {
		return fmt.Errorf("nothing new after %d attempts in %v: %w",
			r.n, passed.Round(time.Millisecond), err)
	}
	select {
	case <-time.After(min(r.wait, left)):
	case <-ctx.Done():
		return fmt.Errorf("%w, after: %w", ctx.Err(), err)
	}
	r.wait = min(2*r.wait, maxPause)
	return nil
}

// attempt connects, gets the offset from the server, and sends the rest.
func (u *upload) attempt(ctx context.Context) (answer string, err error) {
	conn, err := u.Dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if u.location != nil {
		if err := u.getOffset(ctx, conn); err != nil {
			return "", err
		}
	}
	stream, err := conn.Open(ctx, u.request())
	if err != nil {
		return "", err
	}
	defer stream.Reset(hyper.ErrCodeCancel)
	if u.stopped != nil && u.OnResume != nil {
		u.OnResume(u.offset, u.stopped)
	}
	done := make(chan struct{})
	reported := make(chan struct{})
	go func() {
		u.report(stream, done)
		close(reported)
	}()
	answer, err = u.answer(ctx, stream)
	close(done)
	<-reported
	u.stopped = err
	return answer, err
}

// request returns the request that sends the content from offset on.
func (u *upload) request() *hyper.Request {
	req := &hyper.Request{
		Method:        "PATCH",
		Authority:     u.URL.Host,
		Body:          io.NewSectionReader(u.content, u.offset, u.size-u.offset),
		ContentLength: u.size - u.offset,
		Header: hyper.Header{
			{Name: "upload-draft-interop-version", Value: "8"},
			{Name: "upload-complete", Value: "?1"},
		},
	}
	if u.location != nil {
		req.Path = u.location.RequestURI()
		req.Header = append(req.Header,
			hyper.Field{Name: "upload-offset", Value: strconv.FormatInt(u.offset, 10)},
			hyper.Field{Name: "content-type", Value: "application/partial-upload"})
		return req
	}
	u.offset = 0
	req.Method, req.Path, req.Informational = "POST", u.URL.RequestURI(), u.interim
	return req
}

// interim takes the URL of the upload's resource from an interim response.
func (u *upload) interim(status int, header hyper.Header) error {
	if status != 104 { // Upload Resumption Supported
		return nil
	}
	location, err := u.URL.Parse(header.Get("location"))
	if err == nil && location.Host != u.URL.Host {
		err = &refusal{"names another host, " + location.Host}
	}
	if err == nil {
		u.location = location
	}
	return err
}

// answer waits for the response and returns its content.
func (u *upload) answer(ctx context.Context, stream *hyper.Stream) (string, error) {
	resp, err := stream.Response(ctx)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return "", &refusal{fmt.Sprint("answers ", resp.StatusCode)}
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return string(content), err
}

// getOffset gets the number of bytes that the server has.
func (u *upload) getOffset(ctx context.Context, conn *hyper.Conn) error {
	resp, err := conn.Do(ctx, &hyper.Request{
		Method:    "HEAD",
		Authority: u.URL.Host,
		Path:      u.location.RequestURI(),
		Header:    hyper.Header{{Name: "upload-draft-interop-version", Value: "8"}},
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return &refusal{fmt.Sprint("answers ", resp.StatusCode)}
	}
	offset, err := strconv.ParseInt(resp.Header.Get("upload-offset"), 10, 64)
	if err != nil || offset < 0 || offset > u.size {
		return &refusal{fmt.Sprintf("has %q of %d bytes", resp.Header.Get("upload-offset"), u.size)}
	}
	u.offset = offset
	return nil
}

// report calls Progress until done is closed. It counts what the socket has accepted, not what was
// read from the file.
func (u *upload) report(stream *hyper.Stream, done <-chan struct{}) {
	if u.Progress == nil {
		return
	}
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for last := int64(-1); ; {
		if sent := u.offset + stream.Stats().BytesSent; sent != last {
			u.Progress(sent)
			last = sent
		}
		select {
		case <-ticker.C:
		case <-done:
			return
		}
	}
}
