package flowsim

import (
	"context"
	"io"
	"testing/synctest"

	"gohyper.dev/hyper"
)

// An uplink is the TCP connection from client to server, with the client's socket.
type uplink struct {
	*link
	limit   int       // see Scenario.NotSent
	options *optionFD // nil: the client sets no options
	onWay   []byte    // in the socket or on the way
	given   int64     // bytes that the server has
}

// close ends the use of options.
func (u *uplink) close() {
	if u.options != nil {
		u.options.close()
	}
}

// newUplink returns an uplink to the run's server.
func (r *run) newUplink() *uplink {
	b := &bottleneck{clock: &r.clock, rate: r.Rate / 8, queue: r.Queue}
	u := &uplink{link: r.newLink(b, 0), limit: r.NotSent}
	if r.NotSent == 0 {
		if fd, err := newOptionFD(); err == nil {
			u.options, r.socket.options = &fd, &fd
		}
	}
	u.link.room = func() {}
	u.link.deliver = func(total int64) {
		n := int(total - u.given)
		out := u.onWay[:n:n]
		u.onWay, u.given = u.onWay[n:], total
		r.server.recv(out)
	}
	return u
}

// write takes what the client has written.
func (u *uplink) write(out []byte) {
	u.onWay = append(u.onWay, out...)
	u.link.write(len(out))
}

// room returns how many bytes the socket takes. If a Write waits, it goes on only when half of the
// buffer is free, as Linux does.
func (u *uplink) room(waits bool) int {
	most := min(max(sendBuffer, int(u.control.window())), largestUnsent)
	limit := u.limit
	if u.options != nil {
		limit = u.options.notSent()
	}
	if limit > 0 {
		most = min(most, limit)
	}
	unsent := int(u.written - u.sent)
	if waits && unsent > most/2 {
		return 0
	}
	return max(0, most-unsent)
}

// beginUploads sends the requests of a transfer whose bodies count.
func (r *run) beginUploads() {
	for i := range r.Streams {
		body := io.LimitReader(zeros{}, int64(r.size(i)))
		req := &hyper.Request{Method: "POST", Path: "/", Body: body}
		s, err := r.conn.Open(context.Background(), req)
		if r.note(err); err != nil {
			return
		}
		r.due++
		go r.readAll(s)
	}
	r.socket.release()
	synctest.Wait()
	r.collect()
}

// zeros is the content of an upload.
type zeros struct{}

// Read fills p.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// uploaded counts n bytes of a body that the server has received.
func (r *run) uploaded(n int) {
	r.read += int64(n)
	r.sample()
}
