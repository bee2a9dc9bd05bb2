package hyper

import (
	"fmt"

	"gohyper.dev/hyper/internal/syntax"
)

// A Priority says how urgent an exchange is, and whether a part of it is of use (RFC 9218 §4). It
// is a hint. The peer may use it to decide what to send first; hyper uses it for what it sends:
//
//   - Bodies of a lower urgency number are sent first. Others wait as long as one of these can
//     send.
//   - At the same urgency, bodies that are incremental, and those without a Priority, take turns of
//     one frame each. Those that are not incremental are sent one after another, in the order of
//     their streams; together they have the turns of a single body.
//
// The zero value says nothing: no priority is sent, and the body takes turns at the urgency 3.
type Priority struct {
	// Urgency is 1 to 7. A lower number is more urgent. 0 means 3, the default of RFC 9218. A
	// negative number, such as MostUrgent, means the urgency 0.
	Urgency int8

	// Incremental says that the receiver can use parts of the content as they arrive.
	Incremental bool
}

// The ends of the range of Priority.Urgency.
const (
	MostUrgent  = -1 // the urgency 0 of RFC 9218
	LeastUrgent = 7
)

// isSaid reports whether p says anything.
func (p Priority) isSaid() bool { return p != Priority{} }

// urgency returns the urgency as a number of RFC 9218.
func (p Priority) urgency() int {
	return max(0, int(or(p.Urgency, syntax.DefaultUrgency)))
}

// inOrder reports whether the body is sent in the order of the streams.
func (p Priority) inOrder() bool { return p.isSaid() && !p.Incremental }

// String returns p as the value of a priority field, such as "u=1, i". It returns "" if p is zero.
func (p Priority) String() string {
	switch {
	case !p.isSaid():
		return ""
	case p.Urgency == 0:
		return "i"
	case p.Incremental:
		return fmt.Sprintf("u=%d, i", p.urgency())
	}
	return priorityValues[min(p.urgency(), LeastUrgent)]
}

// priorityValues has the values of priorities that are not incremental, by urgency.
var priorityValues = [...]string{"u=0", "u=1", "u=2", "u=3", "u=4", "u=5", "u=6", "u=7"}

// check returns a *RequestError if p is not valid.
func (p Priority) check() error {
	if p.Urgency > LeastUrgent {
		return badValue("priority", fmt.Sprint("u=", p.Urgency),
			"is above the least urgency, 7 (RFC 9218 §4.1)")
	}
	return nil
}

// parsePriority returns the Priority that the value of a priority field says.
func parsePriority(value string) (p Priority) {
	urgency, incremental := syntax.ParsePriority(value)
	return Priority{Urgency: int8(or(urgency, MostUrgent)), Incremental: incremental}
}

// preparePriority determines the priority of the request. A priority field in Header, which
// checkHeader has found, takes precedence over Request.Priority.
func (p *preparedRequest) preparePriority() error {
	if p.priority.isSaid() || !p.Priority.isSaid() {
		return nil
	}
	if err := p.Priority.check(); err != nil {
		return err
	}
	p.priority = p.Priority
	p.addDefault(defaultPriorityField, p.Priority.String())
	return nil
}
