package syntax

import (
	"iter"
	"strings"
)

const (
	// MaxListElements and MaxListSize bound what is read of a field that is a list (RFC 9110
	// §5.6.1): the peer can repeat a long value for one byte each, by the compression table.
	MaxListElements = 32
	MaxListSize     = 1024 // bytes of all values
)

// ListElements yields the elements of the values of one field, without the blanks around them, and
// true. Empty elements count. Where the list is beyond the bounds it yields false, once, and stops.
func ListElements(values iter.Seq[string]) iter.Seq2[string, bool] {
	return func(yield func(string, bool) bool) {
		count, size := 0, 0
		for value := range values {
			if size += len(value); size > MaxListSize {
				yield("", false)
				return
			}
			for element := range strings.SplitSeq(value, ",") {
				if count++; count > MaxListElements {
					yield("", false)
					return
				}
				if !yield(strings.Trim(element, " \t"), true) {
					return
				}
			}
		}
	}
}

// CutCookie returns the first pair of a Cookie's value, without the blanks around it, and what
// follows the pair. It skips empty pairs. pair is "" when none is left.
func CutCookie(value string) (pair, rest string) {
	for rest = value; pair == "" && rest != ""; {
		pair, rest, _ = strings.Cut(rest, ";")
		pair = strings.Trim(pair, " \t")
	}
	return pair, rest
}
