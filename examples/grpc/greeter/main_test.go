package main

import (
	"bytes"
	"strings"
	"testing"

	"gohyper.dev/hyper"
)

// The program shows each of its steps.
func TestGreeter(t *testing.T) {
	var out, frames bytes.Buffer
	if err := run(t.Context(), &out, hyper.TraceTo(&frames)); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{`"Hello Dr Hopper"`, "served-by [\"grpc-go ", `"one" "two" "three"`,
		`InvalidArgument: a name is missing, with the details field_violations`,
		"50 ms: DeadlineExceeded after ",
		"1000 calls at once", "and none failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output has no %q:\n%s", want, out.String())
		}
	}
	if !strings.Contains(frames.String(), ":path: /helloworld.Greeter/SayHello") {
		t.Error("the trace has no call")
	}
}
