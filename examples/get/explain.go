// This file explains errors.

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"unicode"

	"gohyper.dev/hyper"
)

// explain returns the text of an error and, where possible, what the user can do about it.
func explain(err error) string {
	var other *hyper.NotHTTP2Error
	var authority x509.UnknownAuthorityError
	switch {
	case errors.Is(err, errMaxTime):
		return errMaxTime.Error()
	case errors.As(err, &other):
		other.Conn.Close()
		return "the server does not speak HTTP/2"
	case errors.As(err, &authority):
		return err.Error() + " (-cacert names an authority, -k trusts any)"
	case errors.Is(err, hyper.ErrHandshakeTimeout):
		return "no connection in time (--connect-timeout)"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return strings.TrimPrefix(err.Error(), "hyper: ")
}

// printable returns text without what a terminal would not show as it is.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
