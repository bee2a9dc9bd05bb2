package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	h2specCommand = "github.com/summerwind/h2spec/cmd/h2specd@v2.2.1+incompatible"
	h2specCases   = 57
)

// h2spec's client half is a server with a port for each case, on which it breaks one rule of RFC 7540 or 7541 and looks
// whether the client ends the stream or the connection. It is somebody else's judgment of what the tests of the
// root package claim.
func TestH2SpecFindsNothing(t *testing.T) {
	dir := t.TempDir()
	h2specd := installH2Spec(t, dir)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "client"), "./h2spec")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	port := freePorts(t, h2specCases)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h2specd, "-e", "./client", "-o", "3", "-h", "127.0.0.1", "-f", fmt.Sprint(port))
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	out, err := cmd.CombinedOutput()
	report := withoutAcceptErrors(string(out))
	want := fmt.Sprintf("%d tests, %d passed, 0 skipped, 0 failed", h2specCases, h2specCases)
	if err != nil || !strings.Contains(report, want) {
		t.Errorf("want %q; %v:\n%s", want, err, report)
	}
}

// installH2Spec builds h2spec's server. Without a way to fetch it the test is skipped, as it is without any other server.
func installH2Spec(t *testing.T, dir string) string {
	cmd := exec.Command("go", "install", h2specCommand)
	cmd.Dir = dir // no module there could have a say in its dependencies
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("HYPER_REQUIRE_SERVERS") == "1" {
			t.Fatalf("h2specd cannot be built: %v: %s", err, out)
		}
		t.Skipf("h2specd cannot be built: %v: %s", err, out)
	}
	return filepath.Join(dir, "h2specd")
}

// freePorts returns the first of n ports in a row that nobody listens on.
func freePorts(t *testing.T, n int) int {
	for first := 20000; first < 30000; first += n { // below those that systems give out by themselves
		if listensAll(first, n) {
			return first
		}
	}
	t.Fatalf("there are no %d free ports in a row", n)
	return 0
}

func listensAll(first, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+i))
		if err != nil {
			return false
		}
		defer l.Close()
	}
	return true
}

// withoutAcceptErrors drops what h2specd says about its listeners while it closes them.
func withoutAcceptErrors(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "use of closed network connection") {
			b.WriteString(line)
		}
	}
	return b.String()
}
