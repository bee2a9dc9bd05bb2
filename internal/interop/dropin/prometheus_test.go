package dropin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A prometheusServer has the part of Prometheus' HTTP API that the client needs.
type prometheusServer struct{ noPost, goAway atomic.Bool }

// ServeHTTP serves the API.
func (s *prometheusServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.noPost.Load() && r.Method == "POST" { // the client falls back to GET
		w.WriteHeader(405)
		return
	}
	if s.goAway.Load() {
		w.Header().Set("Connection", "close") // Go's server sends GOAWAY
	}
	w.Header().Set("Content-Type", "application/json")
	switch query := r.FormValue("query"); {
	case query == "bad(":
		w.WriteHeader(400)
		io.WriteString(w, `{"status":"error","errorType":"bad_data","error":"parse error"}`)
	case query == "slow":
		w.WriteHeader(503)
		io.WriteString(w, `{"status":"error","errorType":"timeout","error":"query timed out"}`)
	case query == "wait":
		<-r.Context().Done()
	case query == "abort":
		io.WriteString(w, `{"status":"success","data":`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/api/v1/query_range":
		var points []string
		for i := range 5000 {
			points = append(points, fmt.Sprintf(`[%d,"%d"]`, 1000+i, i))
		}
		fmt.Fprintf(w, `{"status":"success","warnings":["partial"],"data":{"resultType":"matrix",`+
			`"result":[{"metric":{"__name__":"up"},"values":[%s]}]}}`, strings.Join(points, ","))
	case r.URL.Path == "/api/v1/query":
		io.WriteString(w, `{"status":"success","data":{"resultType":"vector",`+
			`"result":[{"metric":{"__name__":"up"},"value":[1000,"1"]}]}}`)
	case r.URL.Path == "/api/v1/labels":
		io.WriteString(w, `{"status":"success","data":["__name__","job"]}`)
	default:
		w.WriteHeader(404)
	}
}

func TestPrometheusAPI(t *testing.T) { compareAll(t, usePrometheus) }

// usePrometheus sends queries.
func usePrometheus(l *lane) {
	server := &prometheusServer{}
	url := l.Serve(server)
	client := func(url string) v1.API {
		c, err := api.NewClient(api.Config{Address: url, RoundTripper: l.Transport})
		l.Must(err)
		return v1.NewAPI(c)
	}
	c, ctx, now := client(url), l.Context(), time.Unix(2000, 0)
	hour := v1.Range{Start: time.Unix(1000, 0), End: time.Unix(6000, 0), Step: time.Second}
	for _, how := range []string{"POST", "GET", "GOAWAY"} {
		server.noPost.Store(how == "GET")
		server.goAway.Store(how == "GOAWAY")
		value, warnings, _, err := c.QueryRange(ctx, "up", hour)
		l.Must(err)
		l.Report("%s: %s of %d characters, %v", how, value.Type(), len(value.String()), warnings)
		value, _, _, err = c.Query(ctx, "up", now)
		l.Must(err)
		names, _, _, err := c.LabelNames(ctx, nil, hour.Start, hour.End)
		l.Must(err)
		l.Report("%s: %v %v", how, value, names)
	}
	server.goAway.Store(false)
	for _, query := range []string{"bad(", "slow", "abort"} {
		_, _, _, err := c.Query(ctx, query, now)
		e, _ := errors.AsType[*v1.Error](err)
		if e != nil {
			l.Report("%s: %s %s", query, e.Type, e.Msg)
		} else {
			l.Fails(query, err)
		}
	}
	for _, end := range []string{"canceled", "deadline"} {
		ended, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		if end == "canceled" {
			ended, cancel = context.WithCancel(ctx)
			time.AfterFunc(100*time.Millisecond, cancel)
		}
		_, _, _, err := c.Query(ended, "wait", now)
		l.Fails(end, err)
		cancel()
	}
	_, _, _, err := client(l.Refused()).Query(ctx, "up", now)
	l.Fails("refused", err)
	l.Try("query", url, func(ctx context.Context, url string) (string, error) {
		value, _, _, err := client(url).Query(ctx, "up", now)
		return fmt.Sprint(value), err
	})
}

// TestPromHTTP uses promhttp, which counts requests by status and measures the phases of httptrace.
func TestPromHTTP(t *testing.T) {
	compareAll(t, func(l *lane) {
		l.Loose = true
		url := l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/404":
				w.WriteHeader(404)
			case "/abort":
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, "hello")
		}))
		registry := prometheus.NewRegistry()
		inFlight := prometheus.NewGauge(prometheus.GaugeOpts{Name: "in_flight"})
		counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total"},
			[]string{"code", "method"})
		latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "seconds"}, []string{"code"})
		registry.MustRegister(inFlight, counter, latency)
		var phases [8]atomic.Int64
		names := []string{"got", "put", "first", "dns", "connect", "tls", "wrote headers", "wrote"}
		count := func(n int) func(float64) { return func(float64) { phases[n].Add(1) } }
		rt := promhttp.InstrumentRoundTripperInFlight(inFlight,
			promhttp.InstrumentRoundTripperCounter(counter,
				promhttp.InstrumentRoundTripperTrace(&promhttp.InstrumentTrace{
					GotConn: count(0), PutIdleConn: count(1), GotFirstResponseByte: count(2),
					DNSStart:    count(3),
					ConnectDone: count(4), TLSHandshakeDone: count(5), WroteHeaders: count(6),
					WroteRequest: count(7),
				}, promhttp.InstrumentRoundTripperDuration(latency, l.Transport))))
		client := &http.Client{Transport: rt}
		for _, target := range []string{url + "/", url + "/", url + "/404", url + "/abort", l.Refused()} {
			resp, err := client.Get(target)
			if err != nil {
				l.Fails(target, err)
				continue
			}
			_, err = io.Copy(io.Discard, resp.Body)
			l.Must(err)
			resp.Body.Close()
			l.Report("%s: %s", target, resp.Status)
		}
		for i, name := range names {
			// net/http does not call PutIdleConn for HTTP/2 connections. A refused connection is
			// tried for each address.
			if name != "put" && name != "connect" {
				l.Report("%s: %d", name, phases[i].Load())
			}
		}
		families, err := registry.Gather()
		l.Must(err)
		for _, family := range families {
			var lines []string
			for _, m := range family.GetMetric() {
				counted, timed := m.GetCounter().GetValue(), m.GetHistogram().GetSampleCount()
				lines = append(lines, fmt.Sprint(m.GetLabel(), counted, timed))
			}
			slices.Sort(lines)
			l.Report("%s: %v", family.GetName(), lines)
		}
		l.Report("in flight: %v", testutil.ToFloat64(inFlight))
	})
}
