package interop

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/h2test"
)

// The version of h2spec, and the number of cases of its client half.
const (
	h2specModule = "github.com/summerwind/h2spec"
	h2specSource = h2specModule + "@v2.2.1+incompatible"
	h2specCases  = 57
)

// TestH2SpecFindsNothing runs the client half of h2spec. It is a server with a port for each case.
// On each port it breaks one rule of RFC 7540 or 7541, and checks that the client ends the stream
// or the connection. It judges hyper independently of the tests of the root package.
//
// The test makes h2spec's judge stricter. By default the judge is satisfied when the connection is
// closed, and every connection is closed in the end. Here the judge must get the error that the
// case is about, with its code. leftOpen lists the exceptions.
func TestH2SpecFindsNothing(t *testing.T) {
	dir := t.TempDir()
	h2specd := installH2Spec(t, dir)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "client"), "./h2spec")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	writeCertificate(t, dir)
	// Locked from the search for free ports until they are used.
	var reserved sync.Mutex
	for _, via := range []struct{ door, tls string }{
		{"Dial", "-t"},
		{"NewConn", ""},
		{"NewConn", "-t"},
		{"Dial", ""},
	} {
		t.Run(via.door+via.tls, func(t *testing.T) {
			t.Parallel()
			reserved.Lock()
			port := freePorts(t, h2specCases)
			args := []string{"-S", "-e", "./client " + via.door, "-o", "3", "-h", "127.0.0.1", "-f",
				fmt.Sprint(port),
				"-c", "server.crt", "-k", "server.key"}
			if via.tls != "" {
				args = append(args, via.tls)
			}
			ctx, cancel := context.WithTimeout(t.Context(), checkTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, h2specd, args...)
			cmd.Dir, cmd.WaitDelay = dir, time.Second
			cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+filepath.Join(dir, "ca.crt"))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Start()
			// Wait until it listens on all ports.
			for err == nil && ctx.Err() == nil && listensAll(port+h2specCases-1, 1) {
				time.Sleep(10 * time.Millisecond)
			}
			reserved.Unlock()
			if err == nil {
				err = cmd.Wait()
			}
			report := withoutAcceptErrors(out.String())
			if err := judgeReport(report); err != nil {
				t.Errorf("%v:\n%s", err, report)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// leftOpen are the cases in which hyper sends no error. h2spec's own judge passes them, because the
// connection ends. The stream is closed in these cases: according to RFC 9113 §5.1 an endpoint may
// send STREAM_CLOSED then, where RFC 7540 said must. hyper discards the frame, so that the other
// streams of the connection go on.
var leftOpen = []string{
	"closed: Sends a DATA frame after sending RST_STREAM frame",
	"closed: Sends a HEADERS frame after sending RST_STREAM frame",
	"closed: Sends a DATA frame",
	"closed: Sends a HEADERS frame",
	`Sends a DATA frame on the stream that is not in "open" or "half-closed (local)" state`,
	"Sends a PRIORITY frame with a length other than 5 octets",
}

// The lines of h2specd's report: a case, and the summary.
var (
	verdict = regexp.MustCompile(`(?m)([✔×]) \d+: (.*)$`)
	summary = regexp.MustCompile(`(?m)^(\d+) tests, (\d+) passed, 0 skipped, (\d+) failed$`)
)

// judgeReport requires that all cases passed, except those of leftOpen.
func judgeReport(report string) error {
	cases, failures, _ := strings.Cut(report, "Failures:")
	passed, silent := 0, 0
	for _, v := range verdict.FindAllStringSubmatch(cases, -1) {
		switch {
		case v[1] == "✔":
			passed++
		case slices.Contains(leftOpen, v[2]):
			silent++
		}
	}
	counts := summary.FindStringSubmatch(report)
	if counts == nil || counts[2] != fmt.Sprint(passed) || passed+silent != h2specCases {
		return fmt.Errorf("%d cases passed and %d were left open, of %d", passed, silent, h2specCases)
	}
	if n := strings.Count(failures, "Actual: Connection closed"); n != silent {
		return fmt.Errorf("%d of %d cases that were left open did not just end", silent-n, silent)
	}
	return nil
}

// installH2Spec builds h2spec's server. The test is skipped if it cannot be fetched, as it is for
// any other missing server.
func installH2Spec(t *testing.T, dir string) string {
	src, err := buildH2Spec(dir)
	if err != nil {
		if os.Getenv("HYPER_REQUIRE_SERVERS") == "1" {
			t.Fatalf("h2specd cannot be built: %v", err)
		}
		t.Skipf("h2specd cannot be built: %v", err)
	}
	return src
}

// buildH2Spec fetches h2spec, makes its judge strict, and builds its server in dir, and beside it
// its client, h2spec.
func buildH2Spec(dir string) (path string, err error) {
	run := func(in string, args ...string) []byte {
		if err != nil {
			return nil
		}
		cmd := exec.Command("go", args...)
		// In this folder, only h2spec's own module chooses its dependencies.
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "GOFLAGS=")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		var out []byte
		if out, err = cmd.Output(); err != nil {
			err = fmt.Errorf("go %v: %w: %s%s", args, err, out, &stderr)
		}
		return out
	}
	var module struct{ Dir string }
	out := run(dir, "mod", "download", "-json", h2specSource)
	if err == nil {
		err = json.Unmarshal(out, &module)
	}
	src := filepath.Join(dir, "src")
	if err == nil {
		err = os.CopyFS(src, os.DirFS(module.Dir))
	}
	if err == nil {
		err = makeStrict(filepath.Join(src, "spec", "verifier.go"))
	}
	run(src, "mod", "init", h2specModule)
	run(src, "mod", "tidy")
	run(src, "build", "-o", dir+"/", "./cmd/h2specd", "./cmd/h2spec")
	return filepath.Join(dir, "h2specd"), err
}

// makeStrict changes the judge of stream and connection errors. Unchanged, it accepts a connection
// that just ends.
func makeStrict(file string) error {
	const lenient, strict = "passed = true\n\t\tcase GoAwayFrameEvent:",
		"actual = event\n\t\tcase GoAwayFrameEvent:"
	code, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(code), lenient); n != 2 {
		return fmt.Errorf("%s has %d judges of errors, not two", file, n)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.ReplaceAll(string(code), lenient, strict)), 0o600)
}

// writeCertificate writes server.crt and server.key, and ca.crt for the client.
func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	cert := h2test.Certificate()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"server.crt": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		"server.key": {Type: "PRIVATE KEY", Bytes: key},
		"ca.crt":     {Type: "CERTIFICATE", Bytes: h2test.Authority().Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// freePorts returns the first of n consecutive free ports.
func freePorts(t *testing.T, n int) int {
	// These ports are below those that systems assign.
	for first := 20000; first < 30000; first += n {
		if listensAll(first, n) {
			return first
		}
	}
	t.Fatalf("there are no %d free ports in a row", n)
	return 0
}

// listensAll reports whether the test can listen on n consecutive ports.
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

// withoutAcceptErrors removes the errors that h2specd prints about its listeners while it closes
// them.
func withoutAcceptErrors(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "use of closed network connection") {
			b.WriteString(line)
		}
	}
	return b.String()
}
