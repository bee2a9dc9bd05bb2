package hypertest

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gohyper.dev/hyper/internal/wire"
)

// A slowBody is an endless body whose Read takes a while.
type slowBody struct{ running, begun atomic.Int32 }

// Read counts itself.
func (b *slowBody) Read(p []byte) (int, error) {
	b.begun.Add(1)
	b.running.Add(1)
	defer b.running.Add(-1)
	time.Sleep(10 * time.Millisecond)
	return copy(p, "part"), nil
}

// Close has no effect.
func (*slowBody) Close() error { return nil }

// GetBody may seek in what the body reads from. So no Read may run while it does, although the
// upload continues if GetBody fails.
func TestMisdirectedBodyIsNotReadDuringGetBody(t *testing.T) {
	for name, broken := range map[string]error{"sent again": nil, "GetBody fails": errors.New("gone")} {
		t.Run(name, func(t *testing.T) {
			inEstate(t, func(t *testing.T, e *estate) {
				first := e.first()
				body := &slowBody{}
				req := e.request("POST", "https://two.test/", body)
				req.GetBody = func() (io.ReadCloser, error) {
					for range 10 {
						if n := body.running.Load(); n != 0 {
							t.Errorf("%d Reads run during GetBody", n)
						}
						time.Sleep(10 * time.Millisecond)
					}
					return io.NopCloser(strings.NewReader("again")), broken
				}
				call := e.send(req)
				first.WantHeaders("on the other host's connection", 3)
				first.WantData("a part of the body", 3, 0, 4)
				first.Ignore(wire.Data)
				first.WriteHeaders(3, 0, ":status: 421")
				if broken != nil {
					resp := call.Want(t, "the response")
					if resp.StatusCode != 421 {
						t.Errorf("status %d", resp.StatusCode)
					}
					before := body.begun.Load()
					time.Sleep(time.Second)
					if body.begun.Load() == before {
						t.Error("the upload does not continue")
					}
					resp.Body.Close()
					return
				}
				own := e.accept()
				own.WantHeaders("again", 1)
				own.WantBody("with the new body", 1, []byte("again"))
				own.respond(1, "204")
				call.Want(t, "the response").Body.Close()
			})
		})
	}
}
