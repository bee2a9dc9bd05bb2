package work

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// latency percentiles of a figure's name.
var percentiles = map[string]float64{"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999}

// rate measures how long small requests take if they arrive at -rps per second for -dur, whether or
// not earlier ones have ended. Up to -c are under way; a request that finds no free caller waits
// for one. The time of a request begins when it arrives, so that what waits because of a slow
// response counts, too (it is corrected for coordinated omission). The times between arrivals are
// exponential, and the same for each client.
func rate(o *options) (figures, error) {
	if o.rps <= 0 {
		return nil, fmt.Errorf("-mode rate needs -rps")
	}
	c, err := o.newClient()
	if err != nil {
		return nil, err
	}
	defer c.close()
	if _, err := fetch(c, o.target, make([]byte, 2048)); err != nil {
		return nil, err
	}
	if _, err := o.spread(o.warm, []client{c}); err != nil {
		return nil, err
	}
	arrivals := o.arrivals()
	took := make([]time.Duration, len(arrivals))
	f, err := o.cost(len(arrivals), func() (int64, error) {
		arrived := make(chan int, len(arrivals))
		start := time.Now()
		var failed error
		go func() {
			defer close(arrived)
			failed = arrive(arrived, start, arrivals)
		}()
		octets, err := together(o.callers, func() (octets int64, err error) {
			one := o.caller([]client{c})
			for i := range arrived {
				n, err := one(int64(i))
				if err != nil {
					return octets, err
				}
				octets += n
				took[i] = time.Since(start) - arrivals[i]
			}
			return octets, nil
		})
		if err == nil {
			err = failed
		}
		return octets, err
	})
	if err != nil {
		return nil, err
	}
	f["rps"] = float64(len(arrivals)) / f["wall"].(float64)
	slices.Sort(took)
	for name, part := range percentiles {
		f[name] = float64(took[int(part*float64(len(took)))]) / float64(time.Microsecond)
	}
	return f, nil
}

// arrive sends the number of each request when it arrives, after start.
func arrive(arrived chan<- int, start time.Time, arrivals []time.Duration) error {
	clock, err := newAlarm()
	if err != nil {
		return err
	}
	defer clock.close()
	for i, at := range arrivals {
		if err := clock.sleep(at - time.Since(start)); err != nil {
			return err
		}
		arrived <- i
	}
	return nil
}

// arrivals returns when the requests of a measurement arrive, after its start.
func (o *options) arrivals() (at []time.Duration) {
	random := rand.New(rand.NewPCG(9113, 7541))
	for t := 0.0; ; {
		t += random.ExpFloat64() / o.rps
		if t > o.length.Seconds() && len(at) > 0 {
			return at
		}
		at = append(at, time.Duration(t*float64(time.Second)))
	}
}
