package hyper_test

import (
	"os"
	"strings"
	"testing"
)

// Every Go program in the README is a part of the Examples, which are compiled and run.
func TestReadmeShowsTheExamples(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples strings.Builder
	for _, name := range []string{"example_test.go", "example_transport_test.go", "example_window_test.go",
		"example_stats_test.go"} {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		examples.Write(file)
	}
	blocks := strings.Split(string(readme), "```go\n")[1:]
	if len(blocks) < 10 {
		t.Errorf("%d programs in the README, want at least 10", len(blocks))
	}
	for _, block := range blocks {
		program, _, _ := strings.Cut(block, "```")
		if !strings.Contains(examples.String(), program) {
			t.Errorf("in no Example:\n%s", program)
		}
	}
}
