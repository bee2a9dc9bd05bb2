// This file writes responses to files and to standard output.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/pflag"

	"gohyper.dev/hyper"
)

// outputOptions are the files of the output.
type outputOptions struct {
	places  []string // of -o and -O, in their order; remoteName is -O
	include bool
	discard bool // bodies that have no place are not written
	quiet   quietOptions
}

// quietOptions are the options of what is left out.
type quietOptions struct {
	silent    bool
	showError bool
}

// showsErrors reports whether errors are shown.
func (o *quietOptions) showsErrors() bool { return !o.silent || o.showError }

// remoteName is the place of -O.
const remoteName = "\x00"

// addFlags adds the flags.
func (o *outputOptions) addFlags(f *pflag.FlagSet) {
	f.VarP(&placeFlag{&o.places, ""}, "output", "o",
		"write the body to this `file`, - for standard output; one for each URL")
	f.VarPF(&placeFlag{&o.places, remoteName}, "remote-name", "O",
		"write it to a file with the last part of the URL's path as its name; one for each URL").
		NoOptDefVal = remoteName
	f.BoolVarP(&o.include, "include", "i", false, "write the header and the trailers with the body")
	f.BoolVarP(&o.quiet.silent, "silent", "s", false, "show no progress and no errors")
	f.BoolVarP(&o.quiet.showError, "show-error", "S", false, "show errors although -s is set")
	f.BoolVarP(&o.discard, "stat", "n", false,
		"write statistics of all streams, as nghttp -n -s does, and no bodies without -o or -O")
}

// A placeFlag is -o or -O, which add to the same list.
type placeFlag struct {
	places *[]string
	fixed  string
}

// Set implements pflag.Value.
func (f *placeFlag) Set(text string) error {
	if f.fixed != "" {
		text = f.fixed
	}
	if text == "" {
		return errors.New("the file has no name")
	}
	*f.places = append(*f.places, text)
	return nil
}

// String implements pflag.Value.
func (f *placeFlag) String() string { return "" }

// Type implements pflag.Value.
func (f *placeFlag) Type() string {
	if f.fixed != "" {
		return "bool"
	}
	return "file"
}

// The places that are no files.
const (
	toStdout = "-"
	nowhere  = ""
)

// place returns where the body of the URL with the index i goes.
func (o *outputOptions) place(i int, u *url.URL) (string, error) {
	switch {
	case i >= len(o.places) && o.discard:
		return nowhere, nil
	case i >= len(o.places):
		return toStdout, nil
	case o.places[i] != remoteName:
		return o.places[i], nil
	}
	name := path.Base(u.EscapedPath())
	if u.Path == "" || u.Path[len(u.Path)-1] == '/' || name == "." || name == ".." {
		return "", fmt.Errorf("-O: the path of %s has no file name", u.Redacted())
	}
	return name, nil
}

// checkFiles returns an error if two bodies would be written to one file.
func checkFiles(targets []*target) error {
	writers := make(map[string]*target)
	for _, t := range targets {
		if t.output == toStdout || t.output == nowhere {
			continue
		}
		name := trueName(t.output)
		if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
			continue // such as /dev/null
		}
		if first := writers[name]; first != nil {
			return fmt.Errorf("%s and %s would both be written to %s", first.url.Redacted(),
				t.url.Redacted(), t.output)
		}
		writers[name] = t
	}
	return nil
}

// trueName returns the path of a file without symbolic links, as far as it exists.
func trueName(name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	if found, err := filepath.EvalSymlinks(name); err == nil {
		return found
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(name)); err == nil {
		return filepath.Join(dir, filepath.Base(name))
	}
	return name
}

// toStdout reports whether the response to one of n URLs goes to standard output.
func (o *outputOptions) toStdout(n int) bool {
	for i := range n {
		if place, err := o.place(i, &url.URL{Path: "/x"}); err == nil && place == toStdout {
			return true
		}
	}
	return false
}

// A place is where the response to one URL is written.
type place struct {
	name   string
	stdout io.Writer
	file   *os.File // nil before something is written to it
}

// newPlace returns the place with a name. Standard output is written when turn is closed; until
// then, flow control keeps the server from sending more than one window.
func (g *getter) newPlace(name string, turn <-chan struct{}, c *clock) *place {
	return &place{name: name, stdout: &turnWriter{turn, c, g.std.out}}
}

// A turnWriter is standard output, which URLs write one after the other.
type turnWriter struct {
	turn  <-chan struct{}
	clock *clock
	w     io.Writer
}

// Write waits for the turn before it writes.
func (t *turnWriter) Write(b []byte) (int, error) {
	select {
	case <-t.turn:
	default:
		t.clock.wait(t.turn)
	}
	return t.w.Write(b)
}

// writer returns the writer. It creates the file.
func (p *place) writer() (io.Writer, error) {
	switch {
	case p.name == toStdout:
		return p.stdout, nil
	case p.name == nowhere:
		return io.Discard, nil
	case p.file != nil:
		return p.file, nil
	}
	var err error
	p.file, err = os.Create(p.name)
	return p.file, err
}

// close closes the file.
func (p *place) close() error {
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}

// checkCreate returns an error if a file cannot be created or written. It keeps what is in it. No
// name, and - for standard output, are no files.
func checkCreate(name string) error {
	if name == nowhere || name == toStdout {
		return nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return nil // such as a pipe, which is opened once
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	return file.Close()
}

// header writes the status and the fields of a response, in the form that curl uses.
func (p *place) header(resp *hyper.Response) error {
	w, err := p.writer()
	if err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "HTTP/2 %d\r\n", resp.StatusCode)
	writeFields(b, resp.Header)
	io.WriteString(b, "\r\n")
	return b.Flush()
}

// fields writes the fields of trailers.
func (p *place) fields(h hyper.Header) error {
	if len(h) == 0 {
		return nil
	}
	w, err := p.writer()
	if err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	writeFields(b, h)
	return b.Flush()
}

// writeFields writes fields, one on each line.
func writeFields(w io.Writer, h hyper.Header) {
	for name, value := range h.All() {
		fmt.Fprintf(w, "%s: %s\r\n", name, value)
	}
}
