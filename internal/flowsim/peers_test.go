package flowsim

import "testing"

// TestPeersAreAsFastAsKnown compares the rules of the peers with figures from another simulator, in
// which they were written down by hand: 64 MiB in one stream, 100 ms, 1 Gbit/s, of the speed of
// unlimited windows.
func TestPeersAreAsFastAsKnown(t *testing.T) {
	t.Parallel()
	known := map[string]float64{"net/http": 0.63, "grpc-go": 0.84, "quic-go": 0.74, ".NET": 1}
	most := map[string]int{"net/http": netHTTPStream, "grpc-go": grpcMost, "quic-go": quicStreamMost,
		".NET": dotNetMost}
	for _, m := range subjects {
		want, ok := known[m.name]
		if !ok {
			continue
		}
		got, err := score(t, Cell{100 * ms, 1e9, 1}.with(m, 64<<20))
		if err != nil {
			t.Fatal(err)
		}
		if got.Ratio < want-0.05 || got.Ratio > want+0.05 {
			t.Errorf("%s: %.3f, want %.2f", m.name, got.Ratio, want)
		}
		if got.Peak > most[m.name] || got.Peak < most[m.name]/4 {
			t.Errorf("%s: %d bytes promised, want about %d", m.name, got.Peak, most[m.name])
		}
	}
}

// TestPeersAreRepeatable checks that the PINGs of the peers' managers do not make a run depend on
// the scheduler.
func TestPeersAreRepeatable(t *testing.T) {
	t.Parallel()
	s := bulk
	s.Streams, s.Octets = 4, 4<<20
	for _, m := range subjects {
		if m.pings == nil {
			continue
		}
		first := runAs(t, s, m)
		for range 3 {
			if again := runAs(t, s, m); again != first {
				t.Errorf("%s: %+v, then %+v", m.name, first, again)
			}
		}
	}
}
