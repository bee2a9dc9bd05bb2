package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	list := []*client{
		{name: "h2load", version: "v1", costs: []time.Duration{2000, 9000, 2000}},
		{name: "get bench", costs: []time.Duration{3000, 9000, 3100}},
	}
	table, err := makeTable(list, 3)
	if err != nil || !strings.Contains(table, "| h2load v1 | 2.00 | 1.00 |\n| get bench  | 3.10 | 1.50 |\n") {
		t.Errorf("%s%v", table, err)
	}
	list[1].costs = []time.Duration{3300, 18000, 2000}
	if _, err := makeTable(list, 3); err == nil || !strings.Contains(err.Error(), "1.65 times") {
		t.Error(err)
	}
}

func TestTableGoesIntoItsPlace(t *testing.T) {
	name := filepath.Join(t.TempDir(), "README.md")
	os.WriteFile(name, []byte("a\n"+tableBegins+"old\n"+tableEnds+"b\n"), 0o600)
	if err := replaceTable(name, "new\n"); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(name); string(text) != "a\n"+tableBegins+"new\n"+tableEnds+"b\n" {
		t.Errorf("%s", text)
	}
	if err := replaceTable(name+"2", ""); err == nil {
		t.Error("a file that is not there")
	}
}

func TestNumbersOfRequests(t *testing.T) {
	for name, text := range map[string]string{
		"h2load": "requests: 9 total, 9 started, 9 done, 7 succeeded, 2 failed",
		"hey":    "Status code distribution:\n  [200]\t7 responses\n  [404]\t2 responses\n",
	} {
		pattern := map[string]string{"h2load": `(\d+) succeeded`, "hey": `\[200\]\s+(\d+) responses`}[name]
		if n, err := doneByText(pattern)(nil, []byte(text)); n != 7 || err != nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if n, err := doneBench(nil, []byte(`{"requests": 7}`)); n != 7 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
