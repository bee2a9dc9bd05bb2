// This file has the flags as a whole. Each group of flags is in the file of what it is for.

package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/net/idna"
)

// options are the options of get.
type options struct {
	request  requestOptions
	redirect redirectOptions
	output   outputOptions
	conn     connOptions
	flow     flowOptions
	show     showOptions
	maxTime  time.Duration // of each URL; 0: no limit
	targets  []*target
}

// A target is a URL, with the file to upload to it and the place for its response.
type target struct {
	url    *url.URL
	upload string // the file of -T; empty: none
	output string // a file; "-": standard output
}

// A group is a set of flags with a title for the help.
type group struct {
	title string
	flags *pflag.FlagSet
}

// newGroup returns the group that add fills.
func newGroup(title string, add func(*pflag.FlagSet)) group {
	flags := pflag.NewFlagSet(title, pflag.ContinueOnError)
	flags.SortFlags = false
	add(flags)
	return group{title, flags}
}

// groupsOfGet returns the flags of get, which set o.
func groupsOfGet(o *options) []group {
	return []group{
		newGroup("request", func(f *pflag.FlagSet) {
			o.request.addFlags(f)
			o.redirect.addFlags(f)
			f.VarP((*seconds)(&o.maxTime), "max-time", "m",
				"end each URL that takes longer than this many `seconds`, such as 2.5")
		}),
		newGroup("response", o.output.addFlags),
		newGroup("connection", o.conn.addFlags),
		newGroup("HTTP/2", func(f *pflag.FlagSet) {
			f.BoolVar(&o.conn.push, "push", false,
				"accept server push, and list what was pushed on standard error")
			o.flow.addFlags(f)
		}),
		newGroup("what happened", o.show.addFlags),
	}
}

// errNoURL means that the command line has no URL.
var errNoURL = errors.New("no URL")

// parse reads the command line of get.
func parse(args []string) (*options, error) {
	o := &options{}
	urls, err := parseFlags(args, groupsOfGet(o))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(o.request.check(), o.conn.proxy.check()); err != nil {
		return nil, err
	}
	for i, arg := range urls {
		u, err := parseURL(arg)
		if err != nil {
			return nil, err
		}
		t := &target{url: u}
		if i < len(o.request.uploads) {
			t.upload = o.request.uploads[i]
			addFileName(u, t.upload)
		}
		if t.output, err = o.output.place(i, u); err != nil {
			return nil, err
		}
		o.targets = append(o.targets, t)
	}
	if len(o.targets) == 0 {
		return nil, errNoURL
	}
	if n := max(len(o.request.uploads), len(o.output.places)); n > len(o.targets) {
		return nil, fmt.Errorf("there are %d files for %s", n, counted(len(o.targets), "URL"))
	}
	return o, checkFiles(o.targets)
}

// parseFlags reads flags of groups. It returns the other arguments.
func parseFlags(args []string, groups []group) ([]string, error) {
	all := pflag.NewFlagSet("get", pflag.ContinueOnError)
	all.Usage = func() {}
	for _, g := range groups {
		all.AddFlagSet(g.flags)
	}
	if err := all.Parse(withTwoDashes(args)); err != nil {
		return nil, err
	}
	return all.Args(), nil
}

// oneDash are the long flags that may have a single dash. Curl has none of them but --cacert and
// --cert; for those, a single dash has no other meaning here.
var oneDash = []string{"push", "har", "waterfall", "rate", "window", "timing", "cacert", "cert", "key"}

// withTwoDashes returns args with a second dash before the names in oneDash.
func withTwoDashes(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && slices.Contains(oneDash, name) {
			args[i] = "-" + arg
		}
	}
	return args
}

// parseURL returns the URL that an argument is.
func parseURL(arg string) (*url.URL, error) {
	u, err := url.Parse(arg)
	if err == nil && (u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		err = fmt.Errorf("%q is not a URL with https:// or http://", arg)
	}
	if err == nil {
		err = checkPort(u)
	}
	if err != nil {
		return nil, err
	}
	return u, toASCII(u)
}

// checkPort returns an error if u has a port that there is not.
func checkPort(u *url.URL) error {
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("the port of %s is not between 1 and 65535", u.Redacted())
		}
	}
	return nil
}

// toASCII replaces the host of u by its ASCII form (RFC 5891 §4.4).
func toASCII(u *url.URL) error {
	host := u.Hostname()
	if !strings.ContainsFunc(host, func(r rune) bool { return r > 127 }) {
		return nil
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return err
	}
	if port := u.Port(); port != "" {
		ascii = net.JoinHostPort(ascii, port)
	}
	u.Host = ascii
	return nil
}

// A seconds is a flag with a time in seconds, such as 2.5, or with a unit, such as 1m30s.
type seconds time.Duration

// Set implements pflag.Value.
func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	if err != nil || d < 0 {
		return errors.New("this is not a time in seconds")
	}
	*s = seconds(d)
	return nil
}

// String implements pflag.Value.
func (s *seconds) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

// Type implements pflag.Value.
func (s *seconds) Type() string { return "seconds" }

// A size is a flag with a number of bytes. k, m and g multiply it by 1024, as in curl.
type size int64

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	digits, unit := text, int64(1)
	if i := len(text) - 1; i > 0 {
		if power := strings.IndexByte("kmg", text[i]|0x20); power >= 0 {
			digits, unit = text[:i], 1<<(10*(power+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > maxSize/unit {
		return fmt.Errorf("this is not a size between 1 and %d, such as 64k", int64(maxSize))
	}
	*s = size(n * unit)
	return nil
}

// maxSize is the largest value of a size: the largest flow-control window (RFC 9113 §6.9.1).
const maxSize = 1<<31 - 1

// String implements pflag.Value.
func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type implements pflag.Value.
func (s *size) Type() string { return "bytes" }
