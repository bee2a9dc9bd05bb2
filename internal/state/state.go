// Package state is the life of a stream as a client sees it: RFC 9113 §5.1 as one
// table, and the order of a message on it (§8.1) as another. Both are pure values.
package state

// A State is a stream's place in RFC 9113 §5.1, figure 2. A client never reserves
// a stream itself, so "reserved (local)" is missing.
type State uint8

const (
	Idle State = iota
	ReservedRemote
	Open
	HalfClosedLocal
	HalfClosedRemote
	Closed
	states
)

var stateNames = [states]string{"idle", "reserved (remote)", "open", "half-closed (local)", "half-closed (remote)", "closed"}

func (s State) String() string { return stateNames[s] }

// An Event is a frame, or the END_STREAM flag of one, that was sent or received on a stream.
// A frame with END_STREAM is two events: the frame, then SendEnd or RecvEnd.
type Event uint8

const (
	SendHeaders      Event = iota // HEADERS that opens the stream, or trailers
	SendData                      // DATA
	SendEnd                       // END_STREAM
	SendReset                     // RST_STREAM
	SendWindowUpdate              // WINDOW_UPDATE
	RecvPromise                   // this stream was promised
	RecvHeaders                   // HEADERS of a response: interim, final or trailers
	RecvData                      // DATA
	RecvEnd                       // END_STREAM
	RecvReset                     // RST_STREAM
	RecvWindowUpdate              // WINDOW_UPDATE
	events
)

var eventNames = [events]string{
	"send HEADERS", "send DATA", "send END_STREAM", "send RST_STREAM", "send WINDOW_UPDATE",
	"PUSH_PROMISE of this stream", "HEADERS", "DATA", "END_STREAM", "RST_STREAM", "WINDOW_UPDATE",
}

func (e Event) String() string { return eventNames[e] }

// A Violation is an event that its state does not allow. What it costs, the stream or the
// connection, and with which code, follows from State as §5.1 says: a frame on an idle or a
// reserved stream is a PROTOCOL_ERROR of the connection, one after END_STREAM is STREAM_CLOSED.
type Violation struct {
	State State
	Event Event
}

func (v *Violation) Error() string {
	return v.Event.String() + " on a stream that is " + v.State.String()
}

// no marks an event that is not allowed; the zero Idle can never be a next state.
const no = Idle

var next = [states][events]State{
	Idle: {
		SendHeaders: Open, RecvPromise: ReservedRemote,
	},
	ReservedRemote: {
		SendReset: Closed, SendWindowUpdate: ReservedRemote,
		RecvHeaders: HalfClosedLocal, RecvReset: Closed,
	},
	Open: {
		SendHeaders: Open, SendData: Open, SendEnd: HalfClosedLocal, SendReset: Closed, SendWindowUpdate: Open,
		RecvHeaders: Open, RecvData: Open, RecvEnd: HalfClosedRemote, RecvReset: Closed, RecvWindowUpdate: Open,
	},
	HalfClosedLocal: {
		SendReset: Closed, SendWindowUpdate: HalfClosedLocal,
		RecvHeaders: HalfClosedLocal, RecvData: HalfClosedLocal, RecvEnd: Closed, RecvReset: Closed, RecvWindowUpdate: HalfClosedLocal,
	},
	HalfClosedRemote: {
		SendHeaders: HalfClosedRemote, SendData: HalfClosedRemote, SendEnd: Closed, SendReset: Closed, SendWindowUpdate: HalfClosedRemote,
		RecvReset: Closed, RecvWindowUpdate: HalfClosedRemote,
	},
	Closed: {
		// §5.1: WINDOW_UPDATE and RST_STREAM can arrive for a short time after the end, and mean nothing.
		RecvReset: Closed, RecvWindowUpdate: Closed,
	},
}

// Next returns the state after e, or s itself and a *Violation.
func (s State) Next(e Event) (State, error) {
	if n := next[s][e]; n != no {
		return n, nil
	}
	return s, &Violation{s, e}
}

// CanSend reports whether DATA or trailers may still be sent.
func (s State) CanSend() bool { return s == Open || s == HalfClosedRemote }

// CanRecv reports whether the peer may still send a part of its message.
func (s State) CanRecv() bool { return s == ReservedRemote || s == Open || s == HalfClosedLocal }

// A Message is how far a response has come (§8.1): any number of interim field sections,
// one final field section, DATA, at most one section of trailers.
type Message uint8

const (
	AwaitingHeaders Message = iota
	InBody
	AfterTrailers
	messages
)

// A Part is a piece of a response.
type Part uint8

const (
	Interim  Part = iota // HEADERS with a 1xx status
	Final                // HEADERS with any other status
	Body                 // DATA
	Trailers             // HEADERS after the final field section
	parts
)

var (
	messageNames = [messages]string{"before its final HEADERS", "in its body", "after its trailers"}
	partNames    = [parts]string{"an interim response", "a final response", "DATA", "trailers"}
)

// A Misplaced is a part of a response that came when it must not: the response is malformed (§8.1.1).
type Misplaced struct {
	Message Message
	Part    Part
}

func (m *Misplaced) Error() string {
	return partNames[m.Part] + " in a response that is " + messageNames[m.Message]
}

var order = [messages][parts]struct {
	next Message
	ok   bool
}{
	AwaitingHeaders: {Interim: {AwaitingHeaders, true}, Final: {InBody, true}},
	InBody:          {Body: {InBody, true}, Trailers: {AfterTrailers, true}},
	AfterTrailers:   {},
}

// Next returns where the response is after p, or m itself and a *Misplaced.
func (m Message) Next(p Part) (Message, error) {
	if n := order[m][p]; n.ok {
		return n.next, nil
	}
	return m, &Misplaced{m, p}
}
