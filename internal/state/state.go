// Package state has the states of a stream as a client sees them (RFC 9113 §5.1), and the order of
// the parts of a response on it (§8.1). Each is a table, and its values have no other state.
package state

// A State is a state of a stream in RFC 9113 §5.1, figure 2. A client never reserves a stream
// itself, so "reserved (local)" is missing.
type State uint8

// The states of a stream.
const (
	Idle State = iota
	ReservedRemote
	Open
	HalfClosedLocal
	HalfClosedRemote
	Closed
	states
)

// stateNames are the names of the states in §5.1.
var stateNames = [states]string{"idle", "reserved (remote)", "open", "half-closed (local)",
	"half-closed (remote)", "closed"}

// String returns the state's name in §5.1.
func (s State) String() string { return stateNames[s] }

// An Event is a frame, or the END_STREAM flag of a frame, that was sent or received on a stream. A
// frame with END_STREAM is two events: the frame first, then SendEnd or RecvEnd.
type Event uint8

// The events of a stream.
const (
	SendHeaders      Event = iota // HEADERS that opens the stream, or trailers
	SendData                      // DATA
	SendEnd                       // END_STREAM
	SendReset                     // RST_STREAM
	SendWindowUpdate              // WINDOW_UPDATE
	RecvPromise                   // PUSH_PROMISE that promises this stream
	RecvHeaders                   // HEADERS of a response: interim, final, or trailers
	RecvData                      // DATA
	RecvEnd                       // END_STREAM
	RecvReset                     // RST_STREAM
	RecvWindowUpdate              // WINDOW_UPDATE
	events
)

// eventNames are the texts of the events in an error.
var eventNames = [events]string{
	"send HEADERS", "send DATA", "send END_STREAM", "send RST_STREAM", "send WINDOW_UPDATE",
	"PUSH_PROMISE of this stream", "HEADERS", "DATA", "END_STREAM", "RST_STREAM", "WINDOW_UPDATE",
}

// String returns the event's text in an error.
func (e Event) String() string { return eventNames[e] }

// A Violation reports an event that the state does not allow. The state tells what has to end, the
// stream or the connection, and with which error code (§5.1): a frame on an idle or a reserved
// stream is a connection error of type PROTOCOL_ERROR, and a frame after END_STREAM is a
// STREAM_CLOSED error.
type Violation struct {
	State State
	Event Event
}

// Error names the event and the state.
func (v *Violation) Error() string {
	return v.Event.String() + " on a stream that is " + v.State.String()
}

// no marks an event that is not allowed. It is the zero State, Idle, which is never a next state.
const no = Idle

// next is the table of §5.1: the next state for each state and event.
var next = [states][events]State{
	Idle: {
		SendHeaders: Open, RecvPromise: ReservedRemote,
	},
	ReservedRemote: {
		SendReset: Closed, SendWindowUpdate: ReservedRemote,
		RecvHeaders: HalfClosedLocal, RecvReset: Closed,
	},
	Open: {
		SendHeaders: Open, SendData: Open, SendEnd: HalfClosedLocal, SendReset: Closed,
		SendWindowUpdate: Open,
		RecvHeaders:      Open, RecvData: Open, RecvEnd: HalfClosedRemote, RecvReset: Closed,
		RecvWindowUpdate: Open,
	},
	HalfClosedLocal: {
		SendReset: Closed, SendWindowUpdate: HalfClosedLocal,
		RecvHeaders: HalfClosedLocal, RecvData: HalfClosedLocal, RecvEnd: Closed, RecvReset: Closed,
		RecvWindowUpdate: HalfClosedLocal,
	},
	HalfClosedRemote: {
		SendHeaders: HalfClosedRemote, SendData: HalfClosedRemote, SendEnd: Closed, SendReset: Closed,
		SendWindowUpdate: HalfClosedRemote,
		RecvReset:        Closed, RecvWindowUpdate: HalfClosedRemote,
	},
	Closed: {
		// §5.1: WINDOW_UPDATE and RST_STREAM may arrive for a short time after the end, and are
		// ignored.
		RecvReset: Closed, RecvWindowUpdate: Closed,
	},
}

// Next returns the state after e. If s does not allow e, it returns s and a *Violation.
func (s State) Next(e Event) (State, error) {
	if n := next[s][e]; n != no {
		return n, nil
	}
	return s, &Violation{s, e}
}

// CanSend reports whether DATA or trailers may still be sent.
func (s State) CanSend() bool { return s == Open || s == HalfClosedRemote }

// CanRecv reports whether the peer may still send a part of its response.
func (s State) CanRecv() bool { return s == ReservedRemote || s == Open || s == HalfClosedLocal }

// A Message is the progress of a response (§8.1). A response has any number of interim field
// sections, one final field section, DATA, and at most one section of trailers.
type Message uint8

// The progress of a response.
const (
	AwaitingHeaders Message = iota
	InBody
	AfterTrailers
	messages
)

// A Part is a part of a response.
type Part uint8

// The parts of a response.
const (
	Interim  Part = iota // HEADERS with a 1xx status
	Final                // HEADERS with any other status
	Body                 // DATA
	Trailers             // HEADERS after the final field section
	parts
)

// The texts of an error.
var (
	messageNames = [messages]string{"before its final HEADERS", "in its body", "after its trailers"}
	partNames    = [parts]string{"an interim response", "a final response", "DATA", "trailers"}
)

// A Misplaced reports a part of a response that came where it must not. The response is malformed
// then (§8.1.1).
type Misplaced struct {
	Message Message
	Part    Part
}

// Error names the part and the progress of the response.
func (m *Misplaced) Error() string {
	return partNames[m.Part] + " in a response that is " + messageNames[m.Message]
}

// order is the table of §8.1: the progress after each part, and whether it is allowed.
var order = [messages][parts]struct {
	next Message
	ok   bool
}{
	AwaitingHeaders: {Interim: {AwaitingHeaders, true}, Final: {InBody, true}},
	InBody:          {Body: {InBody, true}, Trailers: {AfterTrailers, true}},
	AfterTrailers:   {},
}

// Next returns the progress after p. If p is not allowed, it returns m and a *Misplaced.
func (m Message) Next(p Part) (Message, error) {
	if n := order[m][p]; n.ok {
		return n.next, nil
	}
	return m, &Misplaced{m, p}
}
