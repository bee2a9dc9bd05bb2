package hypertest

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// cancelable makes a request with a Cancel channel, and returns a function that closes the channel.
func (v *visit) cancelable(method string, body io.Reader) (*http.Request, func()) {
	v.t.Helper()
	ended := make(chan struct{})
	req := v.request(method, "/", body)
	//lint:ignore SA1019 programs set it, and http.Client does
	req.Cancel = ended
	return req, func() { close(ended) }
}

// wantCanceled requires the error that net/http uses for a closed Request.Cancel.
func wantCanceled(t *testing.T, reason string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "request canceled by http.Request.Cancel") {
		t.Errorf("%s: got %v, want that of Request.Cancel", reason, err)
	}
}

// begun sends a request with a Cancel channel and responds with a header, without END_STREAM.
func (v *visit) begun(body io.Reader) (peer *accepted, resp *http.Response, cancel func()) {
	v.t.Helper()
	method := "GET"
	if body != nil {
		method = "POST"
	}
	req, cancel := v.cancelable(method, body)
	call := v.send(req)
	peer = v.accept()
	peer.Ignore(wire.Data)
	peer.WantHeaders("the request", 1)
	peer.WriteHeaders(1, 0, ":status: 200")
	return peer, call.Want(v.t, "the response"), cancel
}

func TestCancelEndsTheReadingOfTheBody(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		peer, resp, cancel := v.begun(nil)
		read := h2test.Go(func() (int, error) { return resp.Body.Read(make([]byte, 10)) })
		synctest.Wait()
		cancel()
		wantCanceled(t, "the read", read.WantErr(t, "Cancel was closed"))
		peer.WantRSTStream("the peer is told", 1, wire.Cancel)
		_, err := resp.Body.Read(make([]byte, 10))
		wantCanceled(t, "a later read", err)
		peer.WantIdle("nothing else is sent")
	})
}

// Closing Cancel resets the stream and drops unread data even if no call is waiting. The end of a
// context does the same.
func TestCancelEndsAnExchangeThatIsNotRead(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		peer, resp, cancel := v.begun(nil)
		peer.WriteData(1, 0, []byte("hello"))
		synctest.Wait()
		cancel()
		peer.WantRSTStream("the peer is told", 1, wire.Cancel)
		_, err := resp.Body.Read(make([]byte, 10))
		wantCanceled(t, "the read", err)
	})
}

func TestCancelEndsAnUpload(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		r, w := io.Pipe()
		peer, _, cancel := v.begun(r)
		io.WriteString(w, "hello")
		cancel()
		peer.WantRSTStream("the peer is told", 1, wire.Cancel)
		synctest.Wait()
		if _, err := w.Write([]byte("more")); err != io.ErrClosedPipe {
			t.Errorf("writing to a body that is closed: %v", err)
		}
	})
}

// The goroutine that watches Cancel ends with the exchange. Otherwise synctest would report a
// deadlock.
func TestCancelThatIsNotClosedCostsNothingLater(t *testing.T) {
	eachDoor(t, hyper.Config{}, func(t *testing.T, v *visit) {
		peer, resp, cancel := v.begun(nil)
		peer.WriteData(1, wire.EndStream, []byte("hello"))
		h2test.WantBody(t, "the body", resp.Body, "hello")
		resp.Body.Close()
		peer.WantIdle("the exchange is over")
		synctest.Wait() // http.Transport pools the connection from now on

		req, _ := v.cancelable("GET", nil)
		call := v.send(req)
		peer.WantHeaders("another request", 3)
		peer.WriteHeaders(3, 0, ":status: 200")
		call.Want(t, "its response").Body.Close()
		peer.WantRSTStream("its body is closed", 3, wire.Cancel)
		cancel()
		peer.WantIdle("Cancel is closed too late to matter")
	})
}
