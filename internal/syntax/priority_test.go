package syntax

import (
	"fmt"
	"testing"
)

func TestParsePriority(t *testing.T) {
	type priority struct {
		urgency     int
		incremental bool
	}
	judge(t, "ParsePriority", func(s string) (p priority) {
		p.urgency, p.incremental = ParsePriority(s)
		return p
	}, map[string]priority{
		"":              {3, false},
		"u=0":           {0, false},
		"u=7, i":        {7, true},
		"i":             {3, true},
		"\ti=?1 ,u=2":   {2, true},
		"i, i=?0":       {3, false},
		"u=1;x=2, i;y":  {1, true},
		"u=8":           {3, false},
		"u=-1":          {3, false},
		"u=12":          {3, false},
		"u=1.0":         {3, false},
		"u":             {3, false},
		"i=1":           {3, false},
		"U=1, I":        {3, false},
		"u=1, u=4":      {4, false},
		"x=9, u=5, y":   {5, false},
		"u=6,u=9":       {6, false},
		",,u=2,,i=?1,,": {2, true},
	})
}

// FuzzPriority checks that each value has parameters within their ranges, and that those parameters
// are what is parsed again.
func FuzzPriority(f *testing.F) {
	for _, s := range []string{"", "u=1, i", "i=?0,u=9", "u=7;a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		urgency, incremental := ParsePriority(s)
		text := fmt.Sprintf("u=%d", urgency)
		if incremental {
			text += ", i"
		}
		if u, i := ParsePriority(text); urgency < 0 || urgency > 7 || u != urgency || i != incremental {
			t.Errorf("ParsePriority(%q) = %d, %v; again %d, %v", s, urgency, incremental, u, i)
		}
	})
}
