// This file has the forms of -F.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A part is one field of a form.
type part struct {
	name string
	file string // the file that is uploaded, or has the value; empty: text is the value
	text []byte
	kind string // the media type; empty: none for a value
	as   string // the file name that is sent; empty: none
}

// attributes finds what may follow the content.
var attributes = regexp.MustCompile(`;(type|filename)=`)

// parsePart returns the part that an argument of -F describes.
func parsePart(arg string) (*part, error) {
	name, value, ok := strings.Cut(arg, "=")
	if !ok || name == "" {
		return nil, fmt.Errorf("-F %s: this is not name=content", arg)
	}
	p := &part{name: name}
	if at := attributes.FindAllStringSubmatchIndex(value, -1); at != nil {
		for i, m := range at {
			end := len(value)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			if value[m[2]:m[3]] == "type" {
				p.kind = value[m[1]:end]
			} else {
				p.as = strings.Trim(value[m[1]:end], `"`)
			}
		}
		value = value[:at[0][0]]
	}
	switch {
	case strings.HasPrefix(value, "@"):
		p.file = strings.Trim(value[1:], `"`)
		if p.as == "" {
			p.as = filepath.Base(p.file)
		}
		if p.kind == "" {
			p.kind = mime.TypeByExtension(filepath.Ext(p.as))
		}
		if p.kind == "" {
			p.kind = "application/octet-stream"
		}
	case strings.HasPrefix(value, "<"):
		p.file = value[1:]
	default:
		p.text = []byte(value)
	}
	return p, nil
}

// header returns the header of the part.
func (p *part) header() textproto.MIMEHeader {
	h := textproto.MIMEHeader{}
	disposition := fmt.Sprintf(`form-data; name="%s"`, quoteName(p.name))
	if p.as != "" {
		disposition += fmt.Sprintf(`; filename="%s"`, quoteName(p.as))
	}
	h.Set("Content-Disposition", disposition)
	if p.kind != "" {
		h.Set("Content-Type", p.kind)
	}
	return h
}

// quoteName escapes what would end a name.
func quoteName(name string) string {
	return strings.NewReplacer("\r", "%0D", "\n", "%0A", `"`, "%22").Replace(name)
}

// A segment is a piece of the form: bytes, or a file.
type segment struct {
	bytes []byte
	file  string
}

// newForm returns the form that the arguments describe, as a content that opens its files anew each
// time it is read.
func newForm(args []string, stdin io.Reader) (*content, error) {
	var segments []segment
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, arg := range args {
		p, err := parsePart(arg)
		if err != nil {
			return nil, err
		}
		if p.file == "-" { // it is read once, as it may be sent several times
			if p.text, err = io.ReadAll(stdin); err != nil {
				return nil, err
			}
			p.file = ""
		}
		body, err := w.CreatePart(p.header())
		if err != nil {
			return nil, err
		}
		if p.file == "" {
			body.Write(p.text)
			continue
		}
		if _, err := os.Stat(p.file); err != nil {
			return nil, err
		}
		segments = append(segments, segment{bytes: bytes.Clone(b.Bytes())}, segment{file: p.file})
		b.Reset()
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	segments = append(segments, segment{bytes: b.Bytes()})
	return &content{w.FormDataContentType(), sizeOf(segments),
		func() (io.Reader, error) { return &segmentReader{rest: segments}, nil }}, nil
}

// sizeOf returns the size of all segments, -1 if that of a file is unknown.
func sizeOf(segments []segment) (n int64) {
	for _, s := range segments {
		if s.file == "" {
			n += int64(len(s.bytes))
			continue
		}
		size := fileSize(s.file)
		if size < 0 {
			return -1
		}
		n += size
	}
	return n
}

// A segmentReader reads segments one after the other. It has at most one file open.
type segmentReader struct {
	rest    []segment
	current io.Reader // nil: the next segment is not open
	file    *os.File  // nil: the current segment is no file
}

// Read implements io.Reader.
func (r *segmentReader) Read(b []byte) (int, error) {
	for {
		if r.current == nil {
			if len(r.rest) == 0 {
				return 0, io.EOF
			}
			if err := r.next(); err != nil {
				return 0, err
			}
		}
		n, err := r.current.Read(b)
		if err == io.EOF {
			r.Close()
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next opens the next segment.
func (r *segmentReader) next() (err error) {
	s := r.rest[0]
	r.rest = r.rest[1:]
	if s.file == "" {
		r.current = bytes.NewReader(s.bytes)
		return nil
	}
	if r.file, err = os.Open(s.file); err != nil {
		return err
	}
	r.current = r.file
	return nil
}

// Close closes the file that is open.
func (r *segmentReader) Close() (err error) {
	if r.file != nil {
		err = r.file.Close()
	}
	r.current, r.file = nil, nil
	return errors.Join(err)
}
