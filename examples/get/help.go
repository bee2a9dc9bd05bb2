// This file has the text of -h.

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// helpForGet begins the help of get.
const helpForGet = `usage: get [flags] URL…
       get bench [flags] URL…     (get bench -h lists its flags)

Fetches URLs over HTTP/2. URLs of one host share a connection and are fetched concurrently. Bodies
for standard output are written in the order of the command line. Flags that curl has mean what
they mean there.
`

// exitCodes ends the help.
const exitCodes = `
exit codes:
  0  every response has a status below 400
  1  a request failed, or a file could not be read or written
  2  the command line is wrong
  3  every request got a response, but a status is 400 or above
  4  the time of -m was over for a URL, and no request failed otherwise
`

// writeHelp writes the help.
func writeHelp(w io.Writer, intro string, groups []group) {
	fmt.Fprint(w, intro)
	for _, g := range groups {
		fmt.Fprintf(w, "\n%s:\n", g.title)
		g.flags.VisitAll(func(f *pflag.Flag) { fmt.Fprint(w, helpFor(f)) })
	}
	fmt.Fprint(w, exitCodes)
}

// The columns of the help.
const (
	textColumn = 30
	lastColumn = 100
)

// helpFor returns the lines for a flag.
func helpFor(f *pflag.Flag) string {
	argument, text := pflag.UnquoteUsage(f)
	line := "      --" + f.Name
	if f.Shorthand != "" {
		line = "  -" + f.Shorthand + ", --" + f.Name
	}
	if f.NoOptDefVal == "" {
		line += " " + argument
	}
	if f.NoOptDefVal == "" && f.DefValue != "" && f.DefValue != "[]" {
		text += " (default " + f.DefValue + ")"
	}
	var b strings.Builder
	if len(line) >= textColumn {
		b.WriteString(line + "\n")
		line = ""
	}
	column := len(line)
	b.WriteString(line)
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			b.WriteString(strings.Repeat(" ", textColumn-column))
			column = textColumn
		case column+1+len(word) > lastColumn:
			b.WriteString("\n" + strings.Repeat(" ", textColumn))
			column = textColumn
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String() + "\n"
}
