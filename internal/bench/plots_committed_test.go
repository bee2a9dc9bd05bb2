package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"strings"
	"testing"
)

// section returns the text between the comments of that name in a file.
func section(t *testing.T, file, name string) string {
	t.Helper()
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<!-- "+name+" -->\n")
	text, _, found := strings.Cut(rest, "<!-- end of "+name+" -->")
	if !found {
		t.Fatalf("%s has no section %q", file, name)
	}
	return text
}

// The pictures in this folder, the tables beside them and the README's table are what the command
// makes of plots.json.
func TestCommittedPlotsAreThoseOfTheCommand(t *testing.T) {
	data, err := readPlots("plots.json")
	if err != nil {
		t.Fatal(err)
	}
	pictures := data.pictures()
	if len(pictures) != 3 {
		t.Errorf("plots.json has data for %d pictures, want 3", len(pictures))
	}
	for name, want := range pictures {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not drawn from plots.json: go -C internal/bench run . -plots . -draw (%v)", name,
				err)
		}
		checkPicture(t, name, want)
	}
	if text, err := os.ReadFile("plots.json"); err != nil || !bytes.Equal(text, data.text()) {
		t.Errorf("plots.json is not as the command writes it: %v", err)
	}
	if section(t, "README.md", "plots") != data.tables() {
		t.Error("the tables of README.md differ from plots.json")
	}
	if section(t, "../../README.md", "costs") != data.costs() {
		t.Error("the table of the main README.md differs from plots.json")
	}
}

// The pictures of the goals and their table are what the command makes of goals.json.
func TestCommittedGoalsAreThoseOfTheCommand(t *testing.T) {
	text, err := os.ReadFile("goals.json")
	if err != nil {
		t.Fatal(err)
	}
	var lines []outcome
	if err := json.Unmarshal(text, &lines); err != nil {
		t.Fatal(err)
	}
	pictures := goalPictures(lines)
	if len(pictures) != len(goalKinds) {
		t.Errorf("goals.json has lines for %d pictures, want %d", len(pictures), len(goalKinds))
	}
	for name, want := range pictures {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not drawn from goals.json (%v)", name, err)
		}
		if err := xml.Unmarshal(want, new(struct{})); err != nil || !bytes.Contains(want, []byte(">goal<")) {
			t.Errorf("%s: %v\n%s", name, err, want)
		}
	}
	if !strings.HasSuffix(section(t, "README.md", "goals"), "\n\n"+goalTable(lines)) {
		t.Error("the table of README.md differs from goals.json")
	}
}
