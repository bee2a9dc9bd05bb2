package main

import (
	"bytes"
	"strings"
	"testing"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
)

// The program shows each of its steps.
func TestGreeter(t *testing.T) {
	var out bytes.Buffer
	var frames h2test.Buffer // events may follow the end of run
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
