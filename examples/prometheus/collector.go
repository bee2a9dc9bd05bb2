// Package hyperprom exports the figures of hyper's connections to Prometheus:
//
//	transport := &hyper.Transport{}
//	prometheus.MustRegister(hyperprom.New(transport))
//
// For an http.Transport that hyper.ConfigureTransport configured, export the Monitor in its Config.
// Copy this package and change it as you like. For example, you may want fewer labels, as each
// label adds time series.
package hyperprom

import (
	"iter"

	"github.com/prometheus/client_golang/prometheus"

	"gohyper.dev/hyper"
)

// A Source provides figures. *hyper.Transport and *hyper.Monitor are Sources.
type Source interface{ Stats() hyper.TransportStats }

// A Collector exports the figures of one Source. It is a prometheus.Collector.
//
// Each figure of hyper.HostStats is a metric with the labels host and proxy. host is the origin;
// proxy is empty for connections without a proxy. The figures of all hosts that the Transport has
// forgotten are added up under the host "forgotten", so that the sum over all hosts never
// decreases.
type Collector struct{ source Source }

// New returns a Collector of source. To register several Collectors, wrap the Registerer with
// prometheus.WrapRegistererWith and a label that tells them apart.
func New(source Source) Collector { return Collector{source} }

// forgotten is the value of the label host for hosts that the Transport has forgotten.
const forgotten = "forgotten"

// values returns the values of a metric for one host. Each comes with the values of the labels that
// follow host and proxy.
type values = func(*hyper.HostStats) iter.Seq2[[]string, float64]

// A metric is one metric family: its description, and its values for one host.
type metric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values values
}

// counter describes a metric that only increases.
func counter(name, help string, v values, labels ...string) metric {
	return describe(prometheus.CounterValue, name+"_total", help, v, labels)
}

// gauge describes a metric that may increase and decrease.
func gauge(name, help string, v values, labels ...string) metric {
	return describe(prometheus.GaugeValue, name, help, v, labels)
}

// describe returns a metric whose labels are host, proxy and then labels.
func describe(kind prometheus.ValueType, name, help string, v values, labels []string) metric {
	labels = append([]string{"host", "proxy"}, labels...)
	return metric{prometheus.NewDesc("hyper_"+name, help, labels, nil), kind, v}
}

// one returns the values of a metric that has no further labels.
func one[T int | int64](get func(*hyper.HostStats) T) values {
	return func(s *hyper.HostStats) iter.Seq2[[]string, float64] {
		return func(yield func([]string, float64) bool) { yield(nil, float64(get(s))) }
	}
}

// A labeled is a value and its label.
type labeled struct {
	label string
	value int64
}

// each returns the values of a metric that has one further label.
func each(get func(*hyper.HostStats) []labeled) values {
	return func(s *hyper.HostStats) iter.Seq2[[]string, float64] {
		return func(yield func([]string, float64) bool) {
			for _, v := range get(s) {
				if !yield([]string{v.label}, float64(v.value)) {
					return
				}
			}
		}
	}
}

// byCode returns the values of a metric that has the labels side and code.
func byCode(get func(*hyper.HostStats) (sent, received hyper.CodeCounts)) values {
	return func(s *hyper.HostStats) iter.Seq2[[]string, float64] {
		sent, received := get(s)
		return func(yield func([]string, float64) bool) {
			for code, n := range sent {
				if !yield([]string{"sent", code.String()}, float64(n)) {
					return
				}
			}
			for code, n := range received {
				if !yield([]string{"received", code.String()}, float64(n)) {
					return
				}
			}
		}
	}
}

// metrics are all metrics that have the labels host and proxy.
var metrics = []metric{
	gauge("connections", "Connections, by state: active, idle or draining.",
		each(func(s *hyper.HostStats) []labeled {
			active := s.ConnsOpen - s.ConnsIdle - s.ConnsDraining
			return []labeled{
				{"active", int64(active)}, {"idle", int64(s.ConnsIdle)}, {"draining", int64(s.ConnsDraining)},
			}
		}), "state"),
	gauge("connections_dialing", "Connections that are being made.",
		one(func(s *hyper.HostStats) int { return s.ConnsDialing })),
	gauge("streams", "Open streams, pushes included.",
		one(func(s *hyper.HostStats) int { return s.StreamsOpen })),
	gauge("requests_waiting", "Requests that wait for a stream, or for a connection.",
		one(func(s *hyper.HostStats) int { return s.Waiting })),

	counter("dials", "Attempts to make a connection.",
		one(func(s *hyper.HostStats) int64 { return s.Dials })),
	counter("dials_failed", "Attempts that brought no transport connection.",
		one(func(s *hyper.HostStats) int64 { return s.DialsFailed })),
	counter("dials_http1", "Attempts that found a server which does not agree on HTTP/2.",
		one(func(s *hyper.HostStats) int64 { return s.DialsHTTP1 })),
	counter("handshakes_failed", "Handshakes of TLS or HTTP/2 that failed.",
		one(func(s *hyper.HostStats) int64 { return s.HandshakesFailed })),
	counter("connections_opened", "Connections that were made.",
		one(func(s *hyper.HostStats) int64 { return s.ConnsOpened })),
	counter("connections_closed", "Connections that have ended.",
		one(func(s *hyper.HostStats) int64 { return s.ConnsClosed })),
	counter("requests", "Requests, each once, however often it is sent.",
		one(func(s *hyper.HostStats) int64 { return s.Requests })),
	counter("retries", "Requests that were sent again, by cause.", each(func(s *hyper.HostStats) []labeled {
		r := s.Retries
		return []labeled{{"goaway", r.GoAway}, {"refused", r.Refused}, {"unsent", r.Unsent}, {"lost", r.Lost}}
	}), "cause"),
	counter("streams_opened", "Streams that were opened by this side.",
		one(func(s *hyper.HostStats) int64 { return s.StreamsOpened })),
	counter("pushes_promised", "Pushes that the peer promised.",
		one(func(s *hyper.HostStats) int64 { return s.PushesPromised })),
	counter("resets", "RST_STREAM by side and code.",
		byCode(func(s *hyper.HostStats) (_, _ hyper.CodeCounts) {
			return s.ResetsSent, s.ResetsReceived
		}), "side", "code"),
	counter("goaways", "GOAWAY by side and code.", byCode(func(s *hyper.HostStats) (_, _ hyper.CodeCounts) {
		return s.GoAwaysSent, s.GoAwaysReceived
	}), "side", "code"),
	counter("ping_timeouts", "Connections whose peer did not answer a PING in time.",
		one(func(s *hyper.HostStats) int64 { return s.PingTimeouts })),
	counter("bytes", "Bytes of HTTP/2, before TLS, by side.", each(func(s *hyper.HostStats) []labeled {
		return []labeled{{"sent", s.BytesSent}, {"received", s.BytesReceived}}
	}), "side"),
	counter("data_bytes", "Bytes in DATA frames, by side.", each(func(s *hyper.HostStats) []labeled {
		return []labeled{{"sent", s.DataSent}, {"received", s.DataReceived}}
	}), "side"),
}

// Metrics of the whole Source, without labels.
var (
	http1Requests = prometheus.NewDesc("hyper_http1_requests_total", "Requests over HTTP/1.1.", nil, nil)
	eventsLost    = prometheus.NewDesc("hyper_events_lost_total", "Calls of OnConn that were not made.",
		nil, nil)
)

// Describe implements prometheus.Collector.
func (Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
	ch <- http1Requests
	ch <- eventsLost
}

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	stats := c.source.Stats()
	hosts := stats.Hosts
	if other := stats.Forgotten; other.Dials+other.Requests > 0 {
		other.Host = forgotten
		hosts = append(hosts, other)
	}
	for _, m := range metrics {
		for i := range hosts {
			for labels, value := range m.values(&hosts[i]) {
				labels = append([]string{hosts[i].Host, hosts[i].Proxy}, labels...)
				ch <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
			}
		}
	}
	ch <- prometheus.MustNewConstMetric(http1Requests, prometheus.CounterValue, float64(stats.HTTP1Requests))
	ch <- prometheus.MustNewConstMetric(eventsLost, prometheus.CounterValue, float64(stats.EventsLost))
}
