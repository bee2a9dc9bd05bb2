// This file shows and records what happens on the connections.

package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/pflag"

	"gohyper.dev/hyper"
)

// showOptions are the options of what is shown.
type showOptions struct {
	verbose   bool
	timing    bool
	har       string
	waterfall string
}

// addFlags adds the flags.
func (o *showOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.verbose, "verbose", "v", false,
		"show every frame on standard error, with its time and connection")
	f.BoolVar(&o.timing, "timing", false, "write a table with the time of each step on standard error")
	f.StringVar(&o.har, "har", "",
		"write an HTTP archive, for the network panel of a browser, to this `file`")
	f.StringVar(&o.waterfall, "waterfall", "",
		"write a page with streams, windows and frames to this `file`")
}

// A recording is written to a file when all URLs are done.
type recording struct {
	file string
	io.WriterTo
}

// traces receive the events of the connections.
type traces struct {
	functions  []func(hyper.TraceEvent)
	recordings []recording
}

// checkRecording returns an error if the file of a recording cannot be written.
func checkRecording(name string) error {
	if name == toStdout { // here, a file with this name
		name = "./" + name
	}
	return checkCreate(name)
}

// traces returns the traces of the flags. Frames are shown on stderr.
func (o *showOptions) traces(stderr io.Writer) *traces {
	t := &traces{}
	if o.verbose {
		t.functions = append(t.functions, hyper.TraceTo(stderr))
	}
	if o.har != "" {
		archive := &hyper.HAR{}
		t.functions = append(t.functions, archive.Trace)
		t.recordings = append(t.recordings, recording{o.har, archive})
	}
	if o.waterfall != "" {
		page := &hyper.Waterfall{}
		t.functions = append(t.functions, page.Trace)
		t.recordings = append(t.recordings, recording{o.waterfall, page})
	}
	return t
}

// function returns a function for Config.Trace.
func (t *traces) function() func(hyper.TraceEvent) {
	if len(t.functions) == 0 {
		return nil
	}
	return func(e hyper.TraceEvent) {
		for _, f := range t.functions {
			f(e)
		}
	}
}

// save writes the files.
func (t *traces) save() (err error) {
	for _, r := range t.recordings {
		err = errors.Join(err, r.save())
	}
	return err
}

// save writes the file.
func (r *recording) save() error {
	file, err := os.Create(r.file)
	if err != nil {
		return err
	}
	_, err = r.WriteTo(file)
	return errors.Join(err, file.Close())
}
