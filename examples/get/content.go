// This file has the contents of requests, of -d and -T.

package main

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// A content is the content of a request. It can be opened for each time that the request is sent.
type content struct {
	kind string // the media type; empty: none is sent
	size int64  // bytes; -1: unknown
	open func() (io.Reader, error)
}

// length returns the length of the content for Request.ContentLength: -1 if it is unknown.
func (c *content) length() int64 {
	if c == nil {
		return -1
	}
	return c.size
}

// memoryContent returns a content that is b.
func memoryContent(kind string, b []byte) *content {
	return &content{kind, int64(len(b)), func() (io.Reader, error) { return bytes.NewReader(b), nil }}
}

// errNotAgain means that standard input would have to be sent a second time.
var errNotAgain = errors.New("standard input cannot be sent again")

// fileContent returns a content that is a file; - is stdin.
func fileContent(name string, stdin io.Reader) *content {
	if name == "-" {
		used := false
		return &content{size: -1, open: func() (io.Reader, error) {
			if used {
				return nil, errNotAgain
			}
			used = true
			return io.NopCloser(stdin), nil
		}}
	}
	c := &content{size: fileSize(name)}
	c.open = func() (io.Reader, error) { return os.Open(name) }
	return c
}

// fileSize returns the size of a regular file, and -1 for anything else.
func fileSize(name string) int64 {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return -1
	}
	return info.Size()
}

// addFileName adds the name of the uploaded file to a URL that ends with a slash.
func addFileName(u *url.URL, file string) {
	if file != "" && file != "-" && (u.Path == "" || strings.HasSuffix(u.Path, "/")) {
		u.Path, u.RawPath = path.Join("/", u.Path, filepath.Base(file)), ""
	}
}

// A dataKind is the way in which the data of a flag is read.
type dataKind int

const (
	asText   dataKind = iota // -d: a file loses its line ends
	asBinary                 // --data-binary
	asIs                     // --data-raw: @ has no meaning
)

// A datum is the value of one flag.
type datum struct {
	kind dataKind
	text string
}

// A dataFlag is one of the flags that add to the data.
type dataFlag struct {
	data *[]datum
	kind dataKind
}

// Set implements pflag.Value.
func (f *dataFlag) Set(text string) error {
	*f.data = append(*f.data, datum{f.kind, text})
	return nil
}

// String implements pflag.Value.
func (f *dataFlag) String() string { return "" }

// Type implements pflag.Value.
func (f *dataFlag) Type() string { return "data" }

// joinData returns the content that the flags describe.
func joinData(data []datum, stdin io.Reader) (*content, error) {
	var all []byte
	for i, d := range data {
		text := []byte(d.text)
		if name, file := strings.CutPrefix(d.text, "@"); file && d.kind != asIs {
			read, err := readFile(name, stdin)
			if err != nil {
				return nil, err
			}
			text = read
			if d.kind == asText {
				text = bytes.Join(bytes.FieldsFunc(read, isLineEnd), nil)
			}
		}
		if i > 0 {
			all = append(all, '&')
		}
		all = append(all, text...)
	}
	return memoryContent("application/x-www-form-urlencoded", all), nil
}

// isLineEnd reports whether -d leaves a character out, as curl does.
func isLineEnd(r rune) bool { return r == '\r' || r == '\n' || r == 0 }
