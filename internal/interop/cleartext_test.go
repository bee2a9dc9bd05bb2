package interop

import (
	"strings"
	"testing"

	"gohyper.dev/hyper"
)

// checkCleartext uses HTTP/2 with prior knowledge in cleartext: a page, the large file, and an
// upload.
func checkCleartext(t testing.TB, r *running) {
	conn := r.dialTo(t, r.plain, hyper.Config{})
	if conn.TLS() != nil {
		t.Error("the connection has TLS")
	}
	wantSmall(t, r, conn)
	resp, err := conn.Get(r.ctx, "/large.bin")
	check(t, err)
	defer resp.Body.Close()
	if sum, err := sumOf(resp.Body); err != nil || sum != r.largeSum {
		t.Errorf("status %d, SHA-256 %s, %v", resp.StatusCode, sum, err)
	}
	sum, err := sumOf(strings.NewReader(r.text))
	check(t, err)
	upload(t, r, conn, strings.NewReader(r.text), sum)
}
