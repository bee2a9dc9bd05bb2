package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// lifecycle is RFC 9113 §5.1 for a client. What is missing here is not allowed. "Either endpoint
// can send" becomes two lines.
const lifecycle = `
	# Sending a HEADERS frame as a client causes the stream to become "open".
	idle + HEADERS sent -> open
	# Receiving a PUSH_PROMISE frame on another stream reserves an idle stream: "reserved (remote)".
	idle + PUSH_PROMISE received -> reserved (remote)

	# Receiving a HEADERS frame causes the stream to transition to "half-closed (local)".
	reserved (remote) + HEADERS received -> half-closed (local)
	# Either endpoint can send a RST_STREAM frame to cause the stream to become "closed".
	reserved (remote) + RST_STREAM sent -> closed
	reserved (remote) + RST_STREAM received -> closed
	# An endpoint MUST NOT send any type of frame other than RST_STREAM, WINDOW_UPDATE, or PRIORITY
	# in this state.
	reserved (remote) + WINDOW_UPDATE sent -> reserved (remote)

	# A stream in the "open" state may be used by both peers to send frames of any type.
	open + HEADERS sent -> open
	open + DATA sent -> open
	open + WINDOW_UPDATE sent -> open
	open + HEADERS received -> open
	open + DATA received -> open
	open + WINDOW_UPDATE received -> open
	# An endpoint sending an END_STREAM flag causes the stream state to become "half-closed
	# (local)"; an endpoint receiving an END_STREAM flag causes the stream state to become "half-
	# closed (remote)".
	open + END_STREAM sent -> half-closed (local)
	open + END_STREAM received -> half-closed (remote)
	# Either endpoint can send a RST_STREAM frame from this state, causing it to transition
	# immediately to "closed".
	open + RST_STREAM sent -> closed
	open + RST_STREAM received -> closed

	# A stream that is in the "half-closed (local)" state cannot be used for sending frames other
	# than WINDOW_UPDATE, PRIORITY, and RST_STREAM.
	half-closed (local) + WINDOW_UPDATE sent -> half-closed (local)
	# An endpoint can receive any type of frame in this state.
	half-closed (local) + HEADERS received -> half-closed (local)
	half-closed (local) + DATA received -> half-closed (local)
	half-closed (local) + WINDOW_UPDATE received -> half-closed (local)
	# A stream transitions from this state to "closed" when a frame is received with the END_STREAM
	# flag set or when either peer sends a RST_STREAM frame.
	half-closed (local) + END_STREAM received -> closed
	half-closed (local) + RST_STREAM sent -> closed
	half-closed (local) + RST_STREAM received -> closed

	# A stream that is "half-closed (remote)" can be used by the endpoint to send frames of any
	# type.
	half-closed (remote) + HEADERS sent -> half-closed (remote)
	half-closed (remote) + DATA sent -> half-closed (remote)
	half-closed (remote) + WINDOW_UPDATE sent -> half-closed (remote)
	# If an endpoint receives additional frames, other than WINDOW_UPDATE, PRIORITY, or RST_STREAM,
	# for a stream that is in this state, it MUST respond with a stream error of type STREAM_CLOSED.
	half-closed (remote) + WINDOW_UPDATE received -> half-closed (remote)
	# A stream can transition from this state to "closed" by sending a frame with the END_STREAM
	# flag set or when either peer sends a RST_STREAM frame.
	half-closed (remote) + END_STREAM sent -> closed
	half-closed (remote) + RST_STREAM sent -> closed
	half-closed (remote) + RST_STREAM received -> closed

	# An endpoint that sends a frame with the END_STREAM flag set or a RST_STREAM frame might
	# receive a WINDOW_UPDATE or RST_STREAM frame from its peer in the time before the peer receives
	# and processes the frame that closes the stream.
	closed + WINDOW_UPDATE received -> closed
	closed + RST_STREAM received -> closed
`

// The names that the tables of this file use.
var (
	stateByName = map[string]State{
		"idle": Idle, "reserved (remote)": ReservedRemote, "open": Open,
		"half-closed (local)": HalfClosedLocal, "half-closed (remote)": HalfClosedRemote, "closed": Closed,
	}
	eventByName = map[string]Event{
		"HEADERS sent": SendHeaders, "DATA sent": SendData, "END_STREAM sent": SendEnd,
		"RST_STREAM sent": SendReset, "WINDOW_UPDATE sent": SendWindowUpdate,
		"PUSH_PROMISE received": RecvPromise, "HEADERS received": RecvHeaders, "DATA received": RecvData,
		"END_STREAM received": RecvEnd, "RST_STREAM received": RecvReset,
		"WINDOW_UPDATE received": RecvWindowUpdate,
	}
	messageByName = map[string]Message{"awaiting headers": AwaitingHeaders, "in body": InBody,
		"after trailers": AfterTrailers}
	partByName = map[string]Part{"interim": Interim, "final": Final, "body": Body, "trailers": Trailers}
)

// A transition is a line of a table like lifecycle.
type transition[S, E comparable] struct {
	from S
	on   E
}

// parse reads a table like lifecycle.
func parse[S, E comparable](t *testing.T, text string, states map[string]S,
	events map[string]E) map[transition[S, E]]S {
	t.Helper()
	table := make(map[transition[S, E]]S)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		from, rest, _ := strings.Cut(line, " + ")
		on, to, _ := strings.Cut(rest, " -> ")
		s, ok1 := states[from]
		e, ok2 := events[on]
		next, ok3 := states[to]
		if _, twice := table[transition[S, E]{s, e}]; !ok1 || !ok2 || !ok3 || twice {
			t.Fatalf("not a transition, or a second time: %q", line)
		}
		table[transition[S, E]{s, e}] = next
	}
	return table
}

func TestLifecycleIsThatOfTheRFC(t *testing.T) {
	if len(stateByName) != int(states) || len(eventByName) != int(events) {
		t.Fatalf("%d states and %d events have names here, want %d and %d", len(stateByName),
			len(eventByName), states, events)
	}
	want := parse(t, lifecycle, stateByName, eventByName)
	for s := range states {
		for e := range events {
			got, err := s.Next(e)
			next, allowed := want[transition[State, Event]{s, e}]
			if allowed && (got != next || err != nil) {
				t.Errorf("%v + %v -> %v, %v; want %v", s, e, got, err, next)
			}
			if allowed {
				continue
			}
			var v *Violation
			if got != s || !errors.As(err, &v) || *v != (Violation{s, e}) {
				t.Errorf("%v + %v -> %v, %v; want a violation, and no other state", s, e, got, err)
			}
		}
	}
}

func TestStateNamesAreThoseOfTheRFC(t *testing.T) {
	for name, s := range stateByName {
		if s.String() != name {
			t.Errorf("%d is %q, want %q", s, s, name)
		}
	}
}

func TestViolationNamesTheEventAndTheState(t *testing.T) {
	for _, test := range []struct {
		Violation
		want string
	}{
		{Violation{Idle, RecvHeaders}, "HEADERS on a stream that is idle"},
		{Violation{HalfClosedRemote, RecvData}, "DATA on a stream that is half-closed (remote)"},
		{Violation{HalfClosedRemote, RecvEnd}, "END_STREAM on a stream that is half-closed (remote)"},
		{Violation{Idle, RecvReset}, "RST_STREAM on a stream that is idle"},
		{Violation{ReservedRemote, RecvWindowUpdate}, "WINDOW_UPDATE on a stream that is reserved (remote)"},
		{Violation{Open, RecvPromise}, "PUSH_PROMISE of this stream on a stream that is open"},
		{Violation{Closed, SendHeaders}, "send HEADERS on a stream that is closed"},
		{Violation{HalfClosedLocal, SendData}, "send DATA on a stream that is half-closed (local)"},
		{Violation{HalfClosedLocal, SendEnd}, "send END_STREAM on a stream that is half-closed (local)"},
		{Violation{Idle, SendReset}, "send RST_STREAM on a stream that is idle"},
		{Violation{Closed, SendWindowUpdate}, "send WINDOW_UPDATE on a stream that is closed"},
	} {
		if _, err := test.State.Next(test.Event); err == nil || err.Error() != test.want {
			t.Errorf("error %q, want %q", err, test.want)
		}
	}
}

func TestCanSendOnlyWhereDataMayBeSent(t *testing.T) {
	for s := range states {
		_, err := s.Next(SendData)
		if got := s.CanSend(); got != (err == nil) {
			t.Errorf("%v: CanSend is %v, sending DATA says %v", s, got, err)
		}
	}
}

func TestCanRecvOnlyWhereThePeersMessageMayGoOn(t *testing.T) {
	// A stream has no response before its request. A promise is a request.
	for s, want := range map[State]bool{
		Idle: false, ReservedRemote: true, Open: true, HalfClosedLocal: true, HalfClosedRemote: false,
		Closed: false,
	} {
		if got := s.CanRecv(); got != want {
			t.Errorf("%v: CanRecv is %v", s, got)
		}
		if _, err := s.Next(RecvHeaders); want != (err == nil) {
			t.Errorf("%v: HEADERS says %v", s, err)
		}
	}
}

func TestRandomWalkNeverLeavesClosedNorReturnsToIdle(t *testing.T) {
	r := rand.New(rand.NewPCG(9113, 51))
	var seen [states]bool
	for range 1000 {
		s, walk := Idle, "idle"
		for range 100 {
			e := Event(r.IntN(int(events)))
			next, err := s.Next(e)
			if err != nil {
				if next != s {
					t.Fatalf("%s, and the violation %v led to %v", walk, err, next)
				}
				continue
			}
			walk += fmt.Sprintf(", %v, %v", e, next)
			if next == Idle || s == Closed && next != Closed {
				t.Fatal(walk)
			}
			s = next
			seen[s] = true
		}
	}
	for s := Idle + 1; s < states; s++ {
		if !seen[s] {
			t.Errorf("no walk came to %v", s)
		}
	}
}

// message is RFC 9113 §8.1: An HTTP message consists of one HEADERS frame, zero or more DATA frames
// and optionally one HEADERS frame with the trailer section. For a response only, a server MAY send
// any number of interim responses before the HEADERS frame containing a final response.
const message = `
	awaiting headers + interim -> awaiting headers
	awaiting headers + final -> in body
	in body + body -> in body
	in body + trailers -> after trailers
`

func TestMessageOrderIsThatOfTheRFC(t *testing.T) {
	if len(messageByName) != int(messages) || len(partByName) != int(parts) {
		t.Fatalf("%d places and %d parts have names here, want %d and %d", len(messageByName),
			len(partByName), messages, parts)
	}
	want := parse(t, message, messageByName, partByName)
	for m := range messages {
		for p := range parts {
			got, err := m.Next(p)
			next, allowed := want[transition[Message, Part]{m, p}]
			if allowed && (got != next || err != nil) {
				t.Errorf("%d + %d -> %d, %v; want %d", m, p, got, err, next)
			}
			if allowed {
				continue
			}
			var misplaced *Misplaced
			if got != m || !errors.As(err, &misplaced) || *misplaced != (Misplaced{m, p}) {
				t.Errorf("%d + %d -> %d, %v; want it misplaced, and no step", m, p, got, err)
			}
		}
	}
}

func TestMisplacedNamesTheFrameAndTheState(t *testing.T) {
	for _, test := range []struct {
		Misplaced
		want string
	}{
		{Misplaced{AwaitingHeaders, Body}, "DATA in a response that is before its final HEADERS"},
		{Misplaced{AwaitingHeaders, Trailers}, "trailers in a response that is before its final HEADERS"},
		{Misplaced{InBody, Interim}, "an interim response in a response that is in its body"},
		{Misplaced{InBody, Final}, "a final response in a response that is in its body"},
		{Misplaced{AfterTrailers, Body}, "DATA in a response that is after its trailers"},
		{Misplaced{AfterTrailers, Trailers}, "trailers in a response that is after its trailers"},
	} {
		if _, err := test.Message.Next(test.Part); err == nil || err.Error() != test.want {
			t.Errorf("error %q, want %q", err, test.want)
		}
	}
}
