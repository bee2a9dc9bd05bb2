package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxLine is the longest line of an event stream that is read, in bytes.
const maxLine = 1 << 20

// An Event is one event of a stream (WHATWG HTML §9.2).
type Event struct {
	ID   string // the last id that the server has sent
	Type string // "message" if the server gave no other
	Data string
}

// A Source reads the events of a URL. It connects again when a response ends, and asks for what
// comes after the last event by Last-Event-ID. It is used by one goroutine at a time.
type Source struct {
	Client  *http.Client
	URL     string
	OnRetry func(err error) // called before it connects again; nil: not called

	Responses int // how many responses have been read

	lastID string
	retry  time.Duration
}

// errEnd is the reason to connect again after a response that ended in good order.
var errEnd = errors.New("the response ended")

// Events yields events until ctx ends, the server says that there are no more (204), or an error
// shows that another try would fail, too. Such an error is the last value.
func (s *Source) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s.retry = 10 * time.Millisecond
		for {
			again, err := s.response(ctx, func(e Event) bool { return yield(e, nil) })
			switch {
			case !again && err != nil:
				yield(Event{}, err)
				return
			case !again:
				return
			case ctx.Err() != nil:
				yield(Event{}, ctx.Err())
				return
			}
			if s.OnRetry != nil {
				s.OnRetry(err)
			}
			select {
			case <-time.After(s.retry):
			case <-ctx.Done():
			}
		}
	}
}

// response reads one response. It reports whether to connect again, and why.
func (s *Source) response(ctx context.Context, yield func(Event) bool) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-store")
	if s.lastID != "" {
		req.Header.Set("Last-Event-ID", s.lastID)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	s.Responses++
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusNoContent:
		return false, nil
	case resp.StatusCode >= 500:
		return true, errors.New(resp.Status)
	case resp.StatusCode != http.StatusOK || kind != "text/event-stream":
		return false, fmt.Errorf("%s, %q is no event stream", resp.Status, kind)
	}
	return s.read(resp.Body, yield)
}

// read reads the events of one body. An event counts when its blank line has come: what comes after
// the last blank line is sent again on the next connection.
func (s *Source) read(body io.Reader, yield func(Event) bool) (again bool, err error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	lines.Split(splitLine)
	var data []string
	event := Event{ID: s.lastID}
	for first := true; lines.Scan(); first = false {
		line := lines.Text()
		if first {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if line == "" {
			s.lastID = event.ID
			if event.Data = strings.Join(data, "\n"); data != nil {
				if event.Type == "" {
					event.Type = "message"
				}
				if !yield(event) {
					return false, nil
				}
			}
			data, event = nil, Event{ID: s.lastID}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "data":
			data = append(data, value)
		case "event":
			event.Type = value
		case "id":
			if !strings.Contains(value, "\x00") {
				event.ID = value
			}
		case "retry":
			if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
				s.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return false, err
	} else if err != nil {
		return true, err
	}
	return true, errEnd
}

// splitLine is a bufio.SplitFunc for lines that end in CR, LF or CR LF.
func splitLine(data []byte, atEOF bool) (advance int, line []byte, err error) {
	i := bytes.IndexAny(data, "\r\n")
	switch {
	case i < 0 && atEOF: // what has no end of line is not a line
		return len(data), nil, nil
	case i < 0:
		return 0, nil, nil
	case data[i] == '\n':
		return i + 1, data[:i], nil
	case i+1 < len(data) && data[i+1] == '\n':
		return i + 2, data[:i], nil
	case i+1 == len(data) && !atEOF:
		return 0, nil, nil // LF may follow
	}
	return i + 1, data[:i], nil
}
