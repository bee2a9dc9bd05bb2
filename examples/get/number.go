// This file formats numbers.

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// number formats x with a number of significant digits and without an exponent. All digits before
// the point are shown, and no zeros at the end of those after it.
func number(x float64, digits int) string {
	if x == 0 {
		return "0"
	}
	places := max(0, digits-1-int(math.Floor(math.Log10(math.Abs(x)))))
	text := strconv.FormatFloat(x, 'f', places, 64)
	if places > 0 {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// counted returns n with a noun, in the plural if n is not 1.
func counted[N int | uint32](n N, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
