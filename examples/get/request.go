// This file makes a request of the flags.

package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/term"

	"gohyper.dev/hyper"
)

// requestOptions are the options of the request.
type requestOptions struct {
	method  string   // -X; empty: it follows from the other flags
	lines   []string // -H
	user    string   // -u: user:password
	data    []datum  // -d and its variants
	form    []string // -F
	uploads []string // -T, one for each URL
	agent   string
	cookies []string
	referer string
	head    bool
}

// addFlags adds the flags.
func (o *requestOptions) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.method, "request", "X", "", "use this `method`")
	f.StringArrayVarP(&o.lines, "header", "H", nil,
		"send the field `\"name: value\"`; \"name:\" removes a field, \"name;\" sends an empty one, "+
			"@file reads lines from a file")
	f.VarP(&dataFlag{&o.data, asText}, "data", "d",
		"POST this `data`; @file reads it from a file without its line ends, @- from standard input; "+
			"several are joined with &")
	f.Var(&dataFlag{&o.data, asBinary}, "data-binary", "the same, with line ends")
	f.Var(&dataFlag{&o.data, asIs}, "data-raw", "the same, without a meaning of @")
	f.StringArrayVarP(&o.form, "form", "F", nil,
		"POST a form with `name=content`; =@file uploads a file, =<file is its content, "+
			";type= and ;filename= may follow")
	f.StringArrayVarP(&o.uploads, "upload-file", "T", nil,
		"PUT this `file`, - for standard input; one for each URL; a URL that ends in / gets its name")
	f.BoolVarP(&o.head, "head", "I", false, "send HEAD, and write the header of the response")
	f.StringVarP(&o.user, "user", "u", "",
		"send this `name:password` as basic authentication; a missing password is read from the terminal")
	f.StringVarP(&o.agent, "user-agent", "A", "", "send this user-agent")
	f.StringArrayVarP(&o.cookies, "cookie", "b", nil,
		"send this cookie, `name=value`; files of cookies are not supported")
	f.StringVarP(&o.referer, "referer", "e", "", "send this referer")
	f.Bool("compressed", false, "decode bodies, which is done anyway, unless -H has accept-encoding")
}

// check returns an error if the flags exclude each other.
func (o *requestOptions) check() error {
	kinds := 0
	for _, set := range []bool{o.head, len(o.data) > 0, len(o.form) > 0, len(o.uploads) > 0} {
		if set {
			kinds++
		}
	}
	if kinds > 1 {
		return errors.New("only one of -I, -d, -F and -T can be used")
	}
	if o.method != "" && !isToken(o.method) {
		return fmt.Errorf("-X %q is not a method", o.method)
	}
	for _, line := range o.lines {
		if !strings.HasPrefix(line, "@") {
			if err := checkLine(line); err != nil {
				return fmt.Errorf("-H: %w", err)
			}
		}
	}
	return o.checkCookies()
}

// checkLine returns an error if a line of -H is no field. It has no value of a field, as that may
// be a secret.
func checkLine(line string) error {
	name, value := splitLine(line)
	switch {
	case !strings.Contains(line, ":") && !strings.HasSuffix(line, ";"):
		return errors.New("a field is neither \"name: value\", \"name:\" nor \"name;\"")
	case !isToken(name):
		return fmt.Errorf("%q is not the name of a field", name)
	case !httpguts.ValidHeaderFieldValue(value):
		return fmt.Errorf("the value of %s has a byte that no field may have", name)
	}
	return nil
}

// isToken reports whether text is a token (RFC 9110 §5.6.2), as methods and names of fields are.
func isToken(text string) bool { return httpguts.ValidHeaderFieldName(text) }

// checkCookies returns an error for a value of -b that curl takes for the name of a file.
func (o *requestOptions) checkCookies() error {
	for _, cookie := range o.cookies {
		if cookie != "" && !strings.Contains(cookie, "=") {
			return fmt.Errorf("-b %s is not name=value: files of cookies are not supported", cookie)
		}
	}
	return nil
}

// A message is a request that can be sent any number of times.
type message struct {
	method    string
	url       *url.URL
	authority string // of a Host field; empty: the URL's
	header    hyper.Header
	content   *content // nil: no content
	bare      bool     // header has all fields: none is added
	raw       bool     // the body is wanted with its content codings
}

// request returns the message as a Request. It opens the content.
func (m *message) request() (*hyper.Request, error) {
	req := &hyper.Request{Method: m.method, Authority: m.authority, Path: m.url.RequestURI(),
		Header: m.header, NoDefaultFields: m.bare}
	if m.content != nil {
		body, err := m.content.open()
		if err != nil {
			return nil, err
		}
		req.Body, req.ContentLength = body, m.content.length()
	}
	return req, nil
}

// A composer makes the messages for all targets. What it reads, it reads once.
type composer struct {
	*requestOptions
	fields  []string // -H, with the lines of files
	auth    string   // the value of authorization
	content *content // of -d or -F
	stdin   io.Reader
}

// composer returns a composer. Prompts go to std.err.
func (o *requestOptions) composer(std stdio) (*composer, error) {
	c := &composer{requestOptions: o, stdin: std.in}
	for _, line := range o.lines {
		name, file := strings.CutPrefix(line, "@")
		if !file {
			c.fields = append(c.fields, line)
			continue
		}
		text, err := readFile(name, std.in)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimRight(line, "\r\n"); line == "" {
				continue
			}
			if err := checkLine(line); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			c.fields = append(c.fields, line)
		}
	}
	if o.user != "" {
		pair, err := withPassword(o.user, std)
		if err != nil {
			return nil, err
		}
		name, password, _ := strings.Cut(pair, ":")
		c.auth = basicAuth(url.UserPassword(name, password))
	}
	var err error
	switch {
	case len(o.data) > 0:
		c.content, err = joinData(o.data, std.in)
	case len(o.form) > 0:
		c.content, err = newForm(o.form, std.in)
	}
	return c, err
}

// basicAuth returns the value of a field with the credentials (RFC 7617), or "" if there are none.
func basicAuth(user *url.Userinfo) string {
	if user == nil {
		return ""
	}
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// readFile reads a file; - is standard input.
func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// withPassword returns a name with its password. It reads a missing one from the terminal, and
// leaves it empty elsewhere.
func withPassword(user string, std stdio) (string, error) {
	if strings.Contains(user, ":") {
		return user, nil
	}
	in, ok := std.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return user + ":", nil
	}
	fmt.Fprintf(std.err, "password for %s: ", user)
	password, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(std.err)
	return user + ":" + string(password), err
}

// message returns the first message for t.
func (c *composer) message(t *target) *message {
	m := &message{url: t.url, content: c.content}
	method := "GET"
	switch {
	case c.head:
		method = "HEAD"
	case t.upload != "":
		method, m.content = "PUT", fileContent(t.upload, c.stdin)
	case m.content != nil:
		method = "POST"
	}
	m.method = cmp.Or(c.method, method)
	c.addFields(m)
	return m
}

// The fields that hyper adds if a request does not have them.
const (
	userAgent      = "hyper"
	acceptEncoding = "gzip, deflate, br"
)

// secrets are the fields that hold credentials. They are never put into a compression table, and
// redirects do not take them to another origin.
var secrets = []string{"authorization", "cookie", "proxy-authorization"}

// connectionFields are fields of HTTP/1.1 that HTTP/2 does not have (RFC 9113 §8.2.2).
var connectionFields = []string{"connection", "keep-alive", "proxy-connection",
	"transfer-encoding", "upgrade"}

// addFields sets the header of m: the fields of the other flags, then those of -H, which replace
// them.
func (c *composer) addFields(m *message) {
	defaults := hyper.Header{{Name: "accept", Value: "*/*"}}
	set := func(name, value string) {
		if value != "" {
			defaults.Add(name, value)
		}
	}
	set("user-agent", c.agent)
	set("referer", c.referer)
	set("cookie", strings.Join(c.cookies, "; "))
	set("authorization", cmp.Or(c.auth, basicAuth(m.url.User)))
	if m.content != nil {
		set("content-type", m.content.kind)
	}
	var given hyper.Header
	for _, line := range c.fields {
		name, value := splitLine(line)
		name = strings.ToLower(name)
		switch {
		case slices.Contains(connectionFields, name):
			continue
		case name == "host":
			m.authority = value
			continue
		case value != "" || strings.HasSuffix(line, ";"):
			given.Add(name, value)
		case name == "user-agent" || name == "accept-encoding":
			m.bare = true
		}
		defaults.Del(name)
	}
	m.raw = given.Has("accept-encoding")
	if m.bare {
		c.addRemaining(m, &defaults, given)
	}
	m.header = append(defaults, given...)
	for i := range m.header {
		m.header[i].Sensitive = slices.Contains(secrets, m.header[i].Name)
	}
}

// addRemaining adds the fields that hyper would have added, without those that -H removes.
func (c *composer) addRemaining(m *message, defaults *hyper.Header, given hyper.Header) {
	removed := func(field string) bool {
		return slices.ContainsFunc(c.fields, func(line string) bool {
			name, value := splitLine(line)
			return strings.EqualFold(name, field) && value == ""
		})
	}
	for name, value := range hyper.Header(m.lateFields()).All() {
		if value != "" && !removed(name) && !defaults.Has(name) && !given.Has(name) {
			defaults.Add(name, value)
		}
	}
}

// lateFields returns the fields that hyper adds to a message.
func (m *message) lateFields() hyper.Header {
	h := hyper.Header{{Name: "user-agent", Value: userAgent},
		{Name: "accept-encoding", Value: acceptEncoding}}
	if n := m.content.length(); n >= 0 {
		h.Add("content-length", fmt.Sprint(n))
	}
	return h
}

// splitLine returns the name and the value of a line of -H.
func splitLine(line string) (name, value string) {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		name = strings.TrimSuffix(line, ";")
	}
	return strings.TrimSpace(name), strings.TrimSpace(value)
}
