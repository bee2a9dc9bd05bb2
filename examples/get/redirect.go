// This file follows redirects.

package main

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/spf13/pflag"

	"gohyper.dev/hyper"
)

// redirectOptions are the options of redirects.
type redirectOptions struct {
	follow bool
	most   int // redirects in a row; negative: no limit
}

// addFlags adds the flags.
func (o *redirectOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.follow, "location", "L", false, "follow redirects")
	f.IntVar(&o.most, "max-redirs", 50, "follow at most this many in a row; -1: any `number`")
}

// next returns the message after the redirect resp, or nil if it is none, or is not to be followed.
// hops is the number of redirects before.
func (o *redirectOptions) next(m *message, resp *hyper.Response, hops int) (*message, error) {
	to := resp.Header.Get("location")
	if !o.follow || to == "" {
		return nil, nil
	}
	n := *m
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound:
		if m.method == "POST" {
			n.dropContent()
		}
	case http.StatusSeeOther:
		if m.method != "HEAD" {
			n.dropContent()
		}
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	if o.most >= 0 && hops >= o.most {
		return nil, fmt.Errorf("more than %d redirects", o.most)
	}
	u, err := m.url.Parse(to)
	if err == nil {
		u, err = parseURL(u.String())
	}
	if err != nil {
		return nil, fmt.Errorf("the redirect: %w", err)
	}
	n.url = u
	if u.Scheme != m.url.Scheme || u.Host != m.url.Host {
		n.dropSecrets()
	}
	return &n, nil
}

// dropContent makes m a GET without content.
func (m *message) dropContent() {
	m.method, m.content = "GET", nil
	m.drop("content-type", "content-length", "expect")
}

// dropSecrets removes what is only meant for the first origin.
func (m *message) dropSecrets() {
	m.authority = ""
	m.drop(secrets...)
}

// drop removes fields from a copy of the header.
func (m *message) drop(names ...string) {
	m.header = slices.DeleteFunc(m.header.Clone(), func(f hyper.Field) bool {
		return slices.Contains(names, f.Name)
	})
}
