package conformance

import (
	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// prioritizes returns a peer that gets a request and lets the client change its priority. The
// client must send PRIORITY_UPDATE with value, or nothing if value is "none".
func prioritizes(p hyper.Priority, value string) func(*lab) {
	return func(l *lab) {
		l.t.Helper()
		stream := l.open(&hyper.Request{Method: "PUT"})
		if err := stream.SetPriority(p); err != nil {
			l.t.Fatal(err)
		}
		if value == "none" {
			l.WantIdle("the peer does not use it")
		} else {
			payload := "\x00\x00\x00\x01" + value
			f := l.WantFrame("the new priority", wire.PriorityUpdate)
			if f.StreamID != 0 || f.Flags != 0 || string(f.Payload) != payload {
				l.t.Errorf("on stream %d with flags %#x: %q, want %q", f.StreamID, f.Flags, f.Payload,
					payload)
			}
		}
		l.stream = stream
		l.caller = l.ask(stream.Response)
		closeWrite(l)
		l.answer(1, "hello")
		l.want(l.caller, 200, "hello")
	}
}

// extensible is quiet with a peer that uses the priorities of RFC 9218.
var extensible = quiet.then(set(setting(wire.SettingNoRFC7540Priorities, 1)))

// get are the pseudo-header fields of a request of quiet, and more fields.
func get(more ...string) []string {
	return append([]string{":method: GET", ":scheme: http", ":authority: own.example", ":path: /"}, more...)
}

// priorityRows are about the priorities of RFC 9218.
var priorityRows = []row{
	{"9218 §5", "PriorityField", "the priority of a request is its priority field", quiet,
		sends(hyper.Request{Priority: hyper.Priority{Urgency: 1, Incremental: true}}, wire.EndStream,
			get("priority: u=1, i")...), answered},
	{"9218 §4.1", "PriorityOfUrgencyZero", "u=0 is the most urgent", quiet,
		sends(hyper.Request{Priority: hyper.Priority{Urgency: hyper.MostUrgent}}, wire.EndStream,
			get("priority: u=0")...), answered},
	{"9218 §4", "NoPriorityField", "no priority field says the defaults", quiet,
		sends(hyper.Request{}, wire.EndStream, get()...), answered},
	{"9218 §4.1", "UrgencyAboveSeven", "u is at most 7: another value is refused", quiet,
		refuses(hyper.Request{Priority: hyper.Priority{Urgency: 8}}, "priority"), goesOn},
	{"9218 §7.1", "PriorityUpdate", "PRIORITY_UPDATE is on stream 0 and names its stream", extensible,
		prioritizes(hyper.Priority{Urgency: 7, Incremental: true}, "u=7, i"), goesOn},
	{"9218 §7.1", "PriorityUpdateOfDefaults", "an empty PRIORITY_UPDATE says the defaults", extensible,
		prioritizes(hyper.Priority{}, ""), goesOn},
	{"9218 §2.1.1", "NoPriorityUpdateWithoutTheSetting",
		"no PRIORITY_UPDATE to a peer that did not say NO_RFC7540_PRIORITIES=1", quiet,
		prioritizes(hyper.Priority{Urgency: 1}, "none"), goesOn},
	{"9218 §2.1.1", "NoPriorityUpdateWithTheSettingOfZero",
		"no PRIORITY_UPDATE to a peer that said NO_RFC7540_PRIORITIES=0",
		quiet.then(set(setting(wire.SettingNoRFC7540Priorities, 0))),
		prioritizes(hyper.Priority{Urgency: 1}, "none"), goesOn},
	{"9218 §10", "UrgentBodiesFirst", "bodies are sent by urgency, and in the order of their streams",
		extensible,
		func(l *lab) {
			l.Ignore(wire.WindowUpdate)
			fill := l.open(&hyper.Request{Method: "PUT"})
			fill.Write(make([]byte, wire.InitialWindow))
			fill.CloseWrite()
			l.WantBody("it takes the connection's window", 1, make([]byte, wire.InitialWindow))
			for _, urgency := range []int8{7, 2, 2, 1} {
				s := l.open(&hyper.Request{Method: "PUT", Priority: hyper.Priority{Urgency: urgency}})
				go s.Write(make([]byte, 10))
			}
			l.WantIdle("there is no window")
			l.WriteWindowUpdate(0, wire.InitialWindow)
			for _, stream := range []uint32{9, 5, 7, 3} {
				l.WantData("the next body", stream, 0, 10)
			}
			for stream := uint32(1); stream < l.next; stream += 2 {
				h2test.AnswerEmpty(l.Peer, stream)
			}
			l.Ignore(wire.RSTStream)
		}, goesOn},
}
