// This file tests content codings as responses use them.

package hypertest

import (
	"errors"
	"testing"

	"gohyper.dev/hyper"
)

func wantDecodeError(t *testing.T, err error, coding string, cause error) {
	t.Helper()
	var e *hyper.DecodeError
	if !errors.As(err, &e) || e.Coding != coding || cause != nil && !errors.Is(err, cause) {
		t.Fatalf("error %v, want a DecodeError of %s: %v", err, coding, cause)
	}
}

func wantLimit(t *testing.T, err error, limit string, bound int64) {
	t.Helper()
	var e *hyper.DecodeLimitError
	if !errors.As(err, &e) || e.Limit != limit || e.Max != bound {
		t.Fatalf("error %v, want a DecodeLimitError of %s %d", err, limit, bound)
	}
}
