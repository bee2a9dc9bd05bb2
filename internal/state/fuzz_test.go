package state

import "testing"

// Each byte is an event of a stream, and a part of its response.
func FuzzStates(f *testing.F) {
	f.Add([]byte{0, 2, 6, 7, 8})
	f.Add([]byte{5, 6, 7, 9, 10})
	f.Fuzz(func(t *testing.T, moves []byte) {
		s, m := Idle, AwaitingHeaders
		var sent, received bool // END_STREAM
		finals := 0
		for _, move := range moves {
			e := Event(move % byte(events))
			next, err := s.Next(e)
			switch {
			case err != nil && next != s:
				t.Fatalf("%v leads from %v to %v", err, s, next)
			case err == nil && (next == Idle || s == Closed && next != Closed):
				t.Fatalf("%v leads from %v to %v", e, s, next)
			case err == nil:
				sent = sent || e == SendEnd || e == SendReset || e == RecvPromise
				received = received || e == RecvEnd || e == RecvReset
			}
			s = next
			if sent && s.CanSend() || received && s.CanRecv() {
				t.Fatalf("a stream that is %v goes on after its end (sent %v, received %v)", s, sent,
					received)
			}
			p := Part(move / byte(events) % byte(parts))
			progress, err := m.Next(p)
			if progress < m || err != nil && progress != m {
				t.Fatalf("%v leads from %v back to %v (%v)", p, m, progress, err)
			}
			if err == nil && p == Final {
				finals++
			}
			if m = progress; finals > 1 || (m == AwaitingHeaders) != (finals == 0) {
				t.Fatalf("%d final responses in progress %v", finals, m)
			}
		}
	})
}
