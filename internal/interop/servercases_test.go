package interop

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/servercases"
)

// deviations are the cases of package servercases in which a server does something else, by the
// server's name.
var deviations = map[string]map[string]string{
	// It is started without the priorities of RFC 7540, and then keeps no closed streams.
	"nghttpd": {
		"5.1 closed: DATA":                     "it ignores the frame",
		"5.1 closed: DATA after RST_STREAM":    "it ignores the frame",
		"5.1 closed: HEADERS":                  "it ignores the frame",
		"5.1 closed: HEADERS after RST_STREAM": "it ignores the frame",
		"5.1.1 lower identifier":               "it ignores the frame",
		"6.3 PRIORITY on stream 0":             "it ignores the frame",

		"RFC 7540 5.3.1 PRIORITY that depends on itself": "it ignores the frame",
	},
	"h2o": {},
	"nginx": {
		"4.3 invalid block":                           "it sends FRAME_SIZE_ERROR",
		"5.1 idle: DATA":                              "it ignores the frame",
		"5.1 idle: RST_STREAM":                        "it ignores the frame",
		"5.1 idle: WINDOW_UPDATE":                     "it ignores the frame",
		"5.1 half closed: DATA":                       "it ignores the frame if the response is complete",
		"5.1 closed: DATA":                            "it ignores the frame",
		"5.1 closed: DATA after RST_STREAM":           "it ignores the frame",
		"8.1 POST with trailers":                      "it requires that HEADERS open a stream",
		"8.2.2 connection":                            "it ignores the field",
		"8.2.2 te":                                    "it ignores the field",
		"8.2.2 transfer-encoding":                     "it ignores the field",
		"8.3 pseudo-header field after a regular one": "it accepts the request",
		"hpack 4.2 table size update at the end":      "it applies the update",

		"hpack 5.2 Huffman padding of more than 7 bits": "it accepts the string",
	},
}

// TestServerCases sends what a client must not send, and requires that servers respond as RFC 9113
// and RFC 7541 say.
func TestServerCases(t *testing.T) {
	site := newSite(t)
	for _, s := range servers {
		deviates, ok := deviations[s.name]
		if !ok {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			r := s.start(t, site)
			target := servercases.Server{Addr: r.addr, Path: s.path("/origin/sum"),
				TLS: h2test.ClientTLS(), Deviates: deviates}
			t.Run("cases", target.Run)
		})
	}
	for name := range deviations {
		if !slices.ContainsFunc(servers, func(s *server) bool { return s.name == name }) {
			t.Errorf("there is no server %s", name)
		}
	}
}

// TestServerCasesHaveAllOfH2Spec compares the groups of servercases.H2Spec with what h2spec lists.
func TestServerCasesHaveAllOfH2Spec(t *testing.T) {
	dir := t.TempDir()
	installH2Spec(t, dir)
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "h2spec"), "--dryrun", "--strict")
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	sections, group := []string{"generic", "http2", "hpack"}, ""
	for line := range strings.Lines(string(list)) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case word != "" && line[0] != ' ' && len(sections) > 0:
			group, sections = sections[0], sections[1:]
		case strings.HasSuffix(word, "."):
			section, _, _ := strings.Cut(group, "/")
			group = section + "/" + strings.TrimSuffix(word, ".")
		case strings.HasSuffix(word, ":"):
			want[group]++
		}
	}
	got := map[string]int{}
	for _, g := range servercases.H2Spec {
		got[g.Group] += len(g.Cases)
	}
	if !maps.Equal(got, want) {
		t.Errorf("the groups have %v cases, those of h2spec %v", got, want)
	}
}

// TestServerTestExamples runs the tests of examples/servertest, which users copy, with real
// servers.
func TestServerTestExamples(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "servertest")
	build := exec.Command("go", "test", "-c", "-o", binary, "gohyper.dev/hyper/examples/servertest")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	site := newSite(t)
	for _, s := range servers {
		if s.name != "nghttpd" && s.name != "h2o" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			r := s.start(t, site)
			cmd := exec.CommandContext(t.Context(), binary, "-test.v")
			cmd.Env = append(os.Environ(), "SERVERTEST_ADDR="+r.addr,
				"SERVERTEST_PATH="+s.path("/origin/sum"))
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Count(string(out), "--- PASS") < 5 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
