package syntax

import "strings"

// DefaultUrgency is the urgency of a Priority field that has none (RFC 9218 §4.1).
const DefaultUrgency = 3

// ParsePriority returns the parameters of a Priority field's value (RFC 9218 §4). As the RFC
// demands, it takes a parameter that is unknown, or whose value is out of range or of another type,
// as not present. The last of several equal names counts.
func ParsePriority(value string) (urgency int, incremental bool) {
	urgency = DefaultUrgency
	for member := range strings.SplitSeq(value, ",") {
		member, _, _ = strings.Cut(member, ";") // parameters of the member, which have no meaning
		switch member = strings.Trim(member, " \t"); {
		case len(member) == 3 && member[:2] == "u=" && member[2] >= '0' && member[2] <= '7':
			urgency = int(member[2] - '0')
		case member == "i" || member == "i=?1":
			incremental = true
		case member == "i=?0":
			incremental = false
		}
	}
	return urgency, incremental
}
