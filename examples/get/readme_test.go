package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// README.md has each flag and the exit codes.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	if _, codes, _ := strings.Cut(exitCodes, "exit codes:\n"); !strings.Contains(readme, codes) {
		t.Errorf("README.md does not have\n%s", codes)
	}
	for _, g := range append(groupsOfGet(&options{}), groupsOfBench(&benchOptions{})...) {
		g.flags.VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(readme, "-"+f.Name) && !(f.Shorthand != "" &&
				(strings.Contains(readme, "`-"+f.Shorthand) || strings.Contains(readme, " -"+f.Shorthand))) {
				t.Errorf("README.md does not have --%s", f.Name)
			}
		})
	}
}
