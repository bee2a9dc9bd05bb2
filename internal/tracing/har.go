package tracing

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gohyper.dev/hyper/internal/syntax"
)

// The types of HAR 1.2, as far as they are written. A field whose name begins with "_" is one of
// ours, or one that browsers use.
type (
	har struct {
		Log harLog `json:"log"`
	}
	harLog struct {
		Version string     `json:"version"`
		Creator harCreator `json:"creator"`
		Pages   []struct{} `json:"pages"`
		Entries []harEntry `json:"entries"`
		Comment string     `json:"comment,omitempty"`
	}
	harCreator struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	harEntry struct {
		Started    time.Time   `json:"startedDateTime"`
		Time       float64     `json:"time"` // milliseconds, as all times
		Request    harRequest  `json:"request"`
		Response   harResponse `json:"response"`
		Cache      struct{}    `json:"cache"`
		Timings    harTimings  `json:"timings"`
		ServerIP   string      `json:"serverIPAddress,omitempty"`
		Connection string      `json:"connection"`
		Comment    string      `json:"comment,omitempty"`
		StreamID   uint32      `json:"_streamId"`
		Pushed     int         `json:"_was_pushed,omitempty"`
		Type       string      `json:"_resourceType"` // what Chromium shows as the type
		Priority   string      `json:"_priority,omitempty"`
	}
	harRequest struct {
		Method      string     `json:"method"`
		URL         string     `json:"url"`
		HTTPVersion string     `json:"httpVersion"`
		Cookies     []struct{} `json:"cookies"` // their values are credentials
		Headers     []harPair  `json:"headers"`
		Query       []harPair  `json:"queryString"`
		PostData    *harPost   `json:"postData,omitempty"`
		HeadersSize int64      `json:"headersSize"`
		BodySize    int64      `json:"bodySize"`
	}
	harPost struct {
		MimeType string `json:"mimeType"`
		Text     string `json:"text"`
		Comment  string `json:"comment"`
	}
	harResponse struct {
		Status       int        `json:"status"`
		StatusText   string     `json:"statusText"`
		HTTPVersion  string     `json:"httpVersion"`
		Cookies      []struct{} `json:"cookies"`
		Headers      []harPair  `json:"headers"`
		Content      harContent `json:"content"`
		RedirectURL  string     `json:"redirectURL"`
		HeadersSize  int64      `json:"headersSize"`
		BodySize     int64      `json:"bodySize"`
		TransferSize int64      `json:"_transferSize"`
		Error        string     `json:"_error,omitempty"`
	}
	harContent struct {
		Size        int64  `json:"size"`
		Compression *int64 `json:"compression,omitempty"`
		MimeType    string `json:"mimeType"`
	}
	harTimings struct {
		Blocked float64 `json:"blocked"`
		DNS     float64 `json:"dns"`
		Connect float64 `json:"connect"`
		SSL     float64 `json:"ssl"`
		Send    float64 `json:"send"`
		Wait    float64 `json:"wait"`
		Receive float64 `json:"receive"`
	}
	harPair struct {
		Name    string `json:"name"`
		Value   string `json:"value"`
		Comment string `json:"comment,omitempty"`
	}
)

// httpVersion is what browsers write for HTTP/2.
const httpVersion = "h2"

// notApplicable is a time that does not apply to an entry.
const notApplicable = -1

// HAR returns what was recorded as an HTTP archive of version 1.2: an entry for each stream whose
// request is known, in the order in which the streams were opened.
func (r *Recorder) HAR() ([]byte, error) {
	r.mu.Lock()
	out := har{harLog{Version: "1.2", Creator: harCreator{"hyper", "1"}, Pages: []struct{}{},
		Entries: make([]harEntry, 0, len(r.streams))}}
	if r.dropped > 0 {
		out.Log.Comment = strconv.Itoa(r.dropped) + " streams are missing, because only some are kept"
	}
	firsts := make(map[*conn]bool)
	for _, s := range r.streams {
		if s.request.fields == nil {
			continue
		}
		out.Log.Entries = append(out.Log.Entries, s.entry(!firsts[s.conn] && s.parent == 0))
		firsts[s.conn] = firsts[s.conn] || s.parent == 0
	}
	r.mu.Unlock()
	text, err := json.MarshalIndent(out, "", " ")
	return append(text, '\n'), err
}

// entry returns the HAR entry of s. first says that it is the connection's first request, so the
// time to make the connection is a part of it if it followed at once.
func (s *stream) entry(first bool) harEntry {
	e := harEntry{Request: s.harRequest(), Response: s.harResponse(), StreamID: s.id, Type: "fetch",
		Connection: "c" + strconv.FormatUint(s.conn.id, 10), Priority: s.request.get("priority")}
	if host, _, err := net.SplitHostPort(s.conn.addr); err == nil && net.ParseIP(host) != nil {
		e.ServerIP = host
	}
	switch {
	case s.parent > 0:
		e.Pushed = 1
		e.Comment = "pushed with stream " + strconv.FormatUint(uint64(s.parent), 10)
	case s.closed.IsZero():
		e.Comment = "the stream has not ended"
	}
	e.Started, e.Timings = s.timings(first)
	t := &e.Timings
	e.Time = max(0, t.Blocked) + max(0, t.Connect) + t.Send + t.Wait + t.Receive
	return e
}

// soon is how long after its connection a first request counts as the reason for it.
const soon = 100 * time.Millisecond

// timings returns when the request began, and its phases. Of several times, cmp.Or returns the
// first that is set.
func (s *stream) timings(first bool) (started time.Time, t harTimings) {
	t = harTimings{Blocked: notApplicable, DNS: notApplicable, Connect: notApplicable, SSL: notApplicable}
	c := s.conn
	started = s.opened.Add(-s.wait)
	begin := started
	if first && !c.dialStart.IsZero() && !c.opened.IsZero() && started.Sub(c.opened) < soon {
		started, begin = c.dialStart, c.opened
		t.Connect = ms(c.opened.Sub(c.dialStart))
		if !c.tlsStart.IsZero() {
			t.SSL = ms(c.tlsDone.Sub(c.tlsStart))
		}
	}
	queued := cmp.Or(s.sent, s.opened)
	if s.parent > 0 {
		queued = s.opened
	}
	t.Blocked = ms(queued.Sub(begin))
	end := cmp.Or(s.recvEnd, s.closed, c.last)
	if s.began.IsZero() {
		end = cmp.Or(s.closed, c.last)
	}
	began := cmp.Or(s.began, end)
	sentEnd := cmp.Or(s.sentEnd, queued)
	if sentEnd.After(began) { // the response came before the end of the request
		sentEnd = began
	}
	if s.parent > 0 {
		sentEnd = queued
	}
	t.Send, t.Wait, t.Receive = ms(sentEnd.Sub(queued)), ms(began.Sub(sentEnd)), ms(end.Sub(began))
	return started, t
}

// ms returns d in milliseconds, and 0 if it is negative.
func ms(d time.Duration) float64 { return float64(max(0, d).Microseconds()) / 1000 }

// harRequest returns the request of s, with the fields that were sent.
func (s *stream) harRequest() harRequest {
	method := cmp.Or(s.request.get(":method"), "GET")
	out := harRequest{Method: method, URL: s.url(), HTTPVersion: httpVersion, Cookies: []struct{}{},
		Headers: s.request.pairs(), Query: queryOf(s.request.get(":path")), HeadersSize: s.sentBytes.header,
		BodySize: s.sentBytes.data}
	if s.sentBytes.data > 0 {
		out.PostData = &harPost{MimeType: s.request.get("content-type"), Comment: "the body is not kept"}
	}
	return out
}

// url returns the URL of the request in a form that URL parsers accept, whatever the peer has
// promised. Parts that no URL can have are replaced.
func (s *stream) url() string {
	scheme, path := s.request.get(":scheme"), s.request.get(":path")
	if !syntax.IsScheme(scheme) { // CONNECT has none
		scheme = "https"
	}
	authority := cmp.Or(s.request.get(":authority"), s.request.get("host"), s.conn.host)
	if _, err := url.Parse("https://" + authority); err != nil || !syntax.IsAuthority(authority) {
		authority = "invalid" // RFC 6761 §6.4: no host has this name
	}
	if path != "" && path[0] != '/' { // "*", or a promise that is malformed
		path = "/" + path
	}
	return scheme + "://" + authority + escapePath(path)
}

// escapePath returns path with percent-encoding for the bytes that are not visible ASCII, for "#",
// and for "%" where no escape begins. Spaces stay, because Redact writes them.
func escapePath(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		bad := c < ' ' || c >= 0x7f || c == '#'
		if c == '%' {
			_, err := url.PathUnescape(path[i:min(i+3, len(path))])
			bad = err != nil
		}
		if bad {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// harResponse returns the response of s. Its status is 0 if there is none, or none that is valid.
func (s *stream) harResponse() harResponse {
	status, err := strconv.Atoi(s.response.get(":status"))
	if err != nil || status < 100 || status > 999 { // the peer may send anything
		status = 0
	}
	out := harResponse{Status: status, StatusText: http.StatusText(status), HTTPVersion: httpVersion,
		Cookies: []struct{}{}, Headers: append(s.response.pairs(), s.trailer.pairs()...),
		RedirectURL: s.response.get("location"), HeadersSize: s.recvBytes.header, BodySize: s.recvBytes.data,
		TransferSize: s.recvBytes.frames,
		Content: harContent{Size: s.recvBytes.data, MimeType: cmp.Or(s.response.get("content-type"),
			"x-unknown")},
		Error: cmp.Or(s.err, s.reset)}
	if s.decoded >= 0 && !s.read.IsZero() && s.response.get("content-encoding") != "" {
		saved := s.decoded - s.recvBytes.data
		out.Content.Size, out.Content.Compression = s.decoded, &saved
	}
	return out
}

// pairs returns the fields as HAR has them. A last one stands for those that were not kept.
func (c *section) pairs() []harPair {
	pairs := make([]harPair, 0, len(c.fields))
	for _, f := range c.fields {
		p := harPair{Name: syntax.Escape(f.Name), Value: syntax.Escape(f.Value)}
		if f.Sensitive || IsSecret(f.Name) {
			p.Comment = "the value is not kept"
		}
		pairs = append(pairs, p)
	}
	if c.cut > 0 {
		pairs = append(pairs, harPair{Name: "_cut", Value: strconv.Itoa(c.cut),
			Comment: "so many fields were not kept"})
	}
	return pairs
}

// queryOf returns the parameters of the query in path.
func queryOf(path string) []harPair {
	pairs := []harPair{}
	_, query, _ := strings.Cut(path, "?")
	for query != "" {
		var part string
		part, query, _ = strings.Cut(query, "&")
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		pairs = append(pairs, harPair{Name: syntax.Escape(name), Value: syntax.Escape(value)})
	}
	return pairs
}
