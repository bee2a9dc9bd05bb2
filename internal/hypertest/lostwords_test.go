package hypertest

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// Some programs recognize a lost connection by net/http's text, and then send the request again or
// restart a stream. Kubernetes' client-go looks for these texts.
func TestLostConnectionHasTheWordsOfNetHTTP(t *testing.T) {
	for name, c := range map[string]struct {
		lose  func(*accepted)
		words string
	}{
		"closed": {func(p *accepted) { p.Close() }, "use of closed network connection"},
		"GOAWAY": {func(p *accepted) {
			p.WriteGoAway(1, wire.NoError, "")
			p.Close()
		}, "http2: server sent GOAWAY and closed the connection"},
		"silence": {func(*accepted) {}, "http2: client connection lost"},
	} {
		for _, where := range []string{"response", "body"} {
			t.Run(name+"/"+where, func(t *testing.T) {
				eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
					call := v.sendOnce("/")
					peer := v.accept()
					peer.WantHeaders("the request", 1)
					peer.Ignore(wire.Ping, wire.RSTStream, wire.GoAway, wire.WindowUpdate)
					if where == "body" {
						peer.WriteHeaders(1, 0, ":status: 200")
						call.Want(t, "the response")
					}
					synctest.Wait()
					c.lose(peer)
					var err error
					if where == "body" {
						_, err = io.ReadAll(call.Value.Body)
					} else {
						err = call.WantErr(t, "no response")
					}
					if !is[*hyper.ConnError](err) {
						t.Fatalf("%T %v is no ConnError", err, err)
					}
					if has := strings.Contains(err.Error(), c.words); !has && !v.own {
						t.Errorf("%v does not have the words %q", err, c.words)
					}
				})
			})
		}
	}
}
