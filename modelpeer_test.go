// This file holds the peer of TestModel.

package hyper

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// act does something on one stream.
func (m *modelRun) act() {
	if m.acks+len(m.pongs) > 0 && m.chance(3) {
		m.settleSettings()
	}
	if len(m.open) > 0 {
		m.respond(m.open[m.r.IntN(len(m.open))])
	}
}

// over reports whether neither side has anything left to send on s, and then takes s off the list.
func (m *modelRun) over(s *peerStream) bool {
	if s.reset || s.sentReset || s.gotEnd && s.sentEnd {
		if i := slices.Index(m.open, s); i >= 0 {
			m.open = slices.Delete(m.open, i, i+1)
		}
		return true
	}
	return false
}

// respond sends the peer's next frame on s, and may open its window.
func (m *modelRun) respond(s *peerStream) {
	if m.over(s) {
		return
	}
	m.did()
	id := uint32(s.id)
	if !s.gotEnd && m.chance(2) {
		if window := m.allowed[id] - s.got; window < 1<<18 {
			m.grant(id, 1+m.r.IntN(1<<16))
		}
		if window := m.allowed[0] - m.sent[0]; window < 1<<19 {
			m.grant(0, 1+m.r.IntN(1<<17))
		}
	}
	if !m.finish && m.chance(40) {
		m.giveUp(s)
		return
	}
	switch {
	case s.sentEnd:
		if !m.finish && m.chance(10) {
			// RFC 9113 §8.1: the response is complete, and the peer does not want the rest of the
			// request.
			m.sayReset(s, wire.NoError)
		}
	case !s.answered && s.interims < 3 && m.chance(5):
		s.interims++
		m.process(s)
		m.peer.WriteHeaders(id, 0, []string{":status: 100", ":status: 103"}[m.r.IntN(2)],
			"x-n: "+strconv.Itoa(s.n))
	case !s.answered:
		m.answer(s)
	case s.sent < s.body:
		m.sendBody(s)
	case s.trailers:
		m.sayEnd(s)
		m.peer.WriteTrailers(id, "x-sum: "+strconv.Itoa(s.n))
	default:
		m.sayEnd(s)
		m.peer.WriteData(id, wire.EndStream, nil)
	}
	if id%2 == 1 && s.answered && !s.sentEnd && !m.finish && m.pushMax > 0 && m.chance(8) {
		m.promise(s)
	}
	m.over(s)
}

func (m *modelRun) process(s *peerStream) {
	m.mu.Lock()
	s.processed = true
	m.mu.Unlock()
}

func (m *modelRun) sayEnd(s *peerStream) {
	m.mu.Lock()
	s.sentEnd = true
	m.mu.Unlock()
}

func (m *modelRun) sayReset(s *peerStream, code wire.ErrCode) {
	m.mu.Lock()
	s.sentReset, s.code, s.early = true, code, !s.sentEnd
	m.mu.Unlock()
	m.peer.WriteRSTStream(uint32(s.id), code)
	m.over(s)
}

// giveUp resets a stream. A stream that was not processed may be refused.
func (m *modelRun) giveUp(s *peerStream) {
	code := []wire.ErrCode{wire.InternalError, wire.Cancel, wire.NoError, wire.EnhanceYourCalm}[m.r.IntN(4)]
	if !s.processed && m.chance(2) {
		code = wire.RefusedStream
	} else {
		m.process(s)
	}
	m.sayReset(s, code)
}

// answer sends the response's header, which announces what follows.
func (m *modelRun) answer(s *peerStream) {
	status := []string{"200", "200", "200", "404", "204", "304"}[m.r.IntN(6)]
	s.answered = true
	m.process(s)
	switch m.r.IntN(8) {
	case 0:
	case 1:
		s.body = m.r.Int64N(150_000)
	default:
		s.body = m.r.Int64N(3000)
	}
	s.trailers = m.chance(3)
	fields := []string{":status: " + status, "x-n: " + strconv.Itoa(s.n), fmt.Sprint("x-body: ", s.body),
		"x-filler: " + strings.Repeat("f", m.r.IntN(60))}
	if s.trailers {
		fields = append(fields, "x-trailed: yes")
	}
	if m.chance(2) {
		fields = append(fields, fmt.Sprint("content-length: ", s.body))
	}
	if s.method == "HEAD" || status == "204" || status == "304" {
		s.body = 0
	}
	var flags wire.Flags
	if s.body == 0 && !s.trailers && m.chance(2) {
		flags = wire.EndStream
		m.sayEnd(s)
	}
	if m.chance(10) {
		m.peer.WriteHeadersSplit(uint32(s.id), flags, 10+m.r.IntN(50), fields...)
	} else {
		m.peer.WriteHeaders(uint32(s.id), flags, fields...)
	}
}

// sendBody sends DATA within both windows.
func (m *modelRun) sendBody(s *peerStream) {
	id := uint32(s.id)
	key := uint32(s.n)
	n := int(min(s.body-s.sent, int64(m.peer.Credit(0)), int64(m.peer.Credit(id)), int64(m.frameMax)))
	if n > 1 && m.chance(2) {
		n = 1 + m.r.IntN(n)
	}
	if n <= 0 {
		if m.chance(10) {
			m.peer.WriteData(id, 0, nil)
		}
		return
	}
	pad := m.r.IntN(256)
	var flags wire.Flags
	end := func(n int) {
		if s.sent+int64(n) == s.body && !s.trailers && m.chance(2) {
			flags = wire.EndStream
			m.sayEnd(s)
		}
	}
	if n > pad+1 && m.chance(5) {
		n -= pad + 1
		end(n)
		m.peer.WritePaddedData(id, flags, octetsAt(key, s.sent, n), pad)
	} else {
		end(n)
		m.peer.WriteData(id, flags, octetsAt(key, s.sent, n))
	}
	s.sent += int64(n)
	m.sum.down.Add(int64(n))
}

// promise begins a push.
func (m *modelRun) promise(parent *peerStream) {
	pushes := 0
	for _, s := range m.open {
		if s.id%2 == 0 {
			pushes++
		}
	}
	if pushes >= m.pushMax {
		return
	}
	m.lastPush += 2
	m.number++
	s := &peerStream{id: int(m.lastPush), n: m.number, method: "GET", gotEnd: true, processed: true}
	m.streams[m.lastPush] = s
	m.open = append(m.open, s)
	m.mu.Lock()
	m.seen[s.n] = s
	m.mu.Unlock()
	m.peer.WritePushPromise(uint32(parent.id), m.lastPush, ":method: GET", ":scheme: http",
		":authority: own.example", fmt.Sprint(":path: /", s.n))
	m.sum.pushes.Add(1)
	m.did()
}

// recvAll processes what the client sent.
func (m *modelRun) recvAll(frames []h2test.Frame) {
	for _, f := range frames {
		if reason := m.recv(f); reason != "" {
			m.errorf("the client sent %v: %s", f.FrameHeader, reason)
		}
	}
}

// recv processes a frame. It returns what is illegal about it, or "".
func (m *modelRun) recv(f h2test.Frame) (illegal string) {
	s := m.streams[f.StreamID]
	switch f.Type {
	case wire.Settings:
		if !f.Flags.Has(wire.Ack) {
			for setting := range wire.ParseSettings(f.Payload) {
				if setting.ID == wire.SettingMaxFrameSize {
					m.frameMax = int(setting.Value)
				}
			}
			m.acks++
		} else if m.limits = m.limits[1:]; len(m.limits) == 0 {
			return "nothing is to be acknowledged"
		}
	case wire.Ping:
		switch data := wire.ParsePing(f.Payload); {
		case !f.Flags.Has(wire.Ack):
			m.pongs = append(m.pongs, data)
		case len(m.pings) == 0 || m.pings[0] != data:
			return "it answers no PING"
		default:
			m.pings = m.pings[1:]
		}
	case wire.GoAway:
		if !m.closed && m.goAway < 0 {
			return "the connection does not end"
		}
	case wire.Headers:
		if s == nil {
			return m.recvRequest(f)
		}
		switch {
		case s.reset && int64(f.StreamID) <= lastKept(m.goAway), s.gotEnd:
			return "the stream has ended"
		case !f.Flags.Has(wire.EndStream) || !s.trailed:
			return "trailers without END_STREAM, or unasked"
		case f.Headers.Get("x-sum") != strconv.Itoa(s.n):
			return "other trailers"
		}
		return m.recvEnd(s)
	case wire.Data:
		switch {
		case s == nil:
			return "the stream is idle"
		case s.gotEnd || s.reset && int64(f.StreamID) <= lastKept(m.goAway):
			return "the stream has ended"
		}
		if i := differsAt(f.Payload, uint32(s.n), s.got); i >= 0 {
			return fmt.Sprintf("octet %d of the upload is wrong", s.got+int64(i))
		}
		s.got += int64(f.Length)
		m.sum.up.Add(int64(f.Length))
		if f.Flags.Has(wire.EndStream) {
			if s.trailed {
				return "there should be trailers"
			}
			return m.recvEnd(s)
		}
	case wire.RSTStream:
		if s == nil || s.reset && int64(f.StreamID) <= lastKept(m.goAway) {
			return "the stream is idle, or was reset before"
		}
		s.reset = true
		m.over(s)
	case wire.WindowUpdate:
		if f.StreamID != 0 && (s == nil || s.reset && int64(f.StreamID) <= lastKept(m.goAway)) {
			return "the stream is idle, or was reset before"
		}
	default:
		return "no client sends that"
	}
	return ""
}

// recvRequest processes a new stream.
func (m *modelRun) recvRequest(f h2test.Frame) (illegal string) {
	if f.StreamID != m.lastSeen+2 && !(m.lastSeen == 0 && f.StreamID == 1) {
		return fmt.Sprintf("the last new stream was %d", m.lastSeen)
	}
	m.lastSeen = f.StreamID
	n, _ := strconv.Atoi(f.Headers.Get("x-n"))
	upload, _ := strconv.ParseInt(f.Headers.Get("x-upload"), 10, 64)
	s := &peerStream{id: int(f.StreamID), n: n, method: f.Headers.Get(":method"), upload: upload,
		trailed: f.Headers.Get("x-trailed") != ""}
	m.streams[f.StreamID] = s
	m.mu.Lock()
	m.seen[n] = s
	ignored := m.goAway >= 0 && int64(f.StreamID) > m.goAway
	m.mu.Unlock()
	m.sum.streams.Add(1)
	if ignored {
		s.reset = true
		return ""
	}
	open := 1
	for _, s := range m.open {
		if s.id%2 == 1 {
			open++
		}
	}
	m.open = append(m.open, s)
	// RFC 9113 §5.1.2: endpoints MUST NOT exceed the limit set by their peer.
	if most := slices.Max(m.limits); int64(open) > int64(most) {
		return fmt.Sprintf("%d streams are open, %d allowed", open, most)
	}
	if f.Flags.Has(wire.EndStream) {
		return m.recvEnd(s)
	}
	return ""
}

func (m *modelRun) recvEnd(s *peerStream) (illegal string) {
	s.gotEnd = true
	m.over(s)
	if s.got != s.upload {
		return fmt.Sprintf("the upload ends after %d octets of %d", s.got, s.upload)
	}
	return ""
}
