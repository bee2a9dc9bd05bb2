package hyperprom_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"gohyper.dev/hyper"
	hyperprom "gohyper.dev/hyper/examples/prometheus"
)

// newServer starts a server that resets the streams of requests for /broken.
func newServer(t *testing.T) (*httptest.Server, *tls.Config) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "hello")
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv, &tls.Config{RootCAs: roots}
}

// get sends a GET request and reads the response if there is one.
func get(t *testing.T, client *http.Client, url string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		return
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// scrape returns what Prometheus would read, line by line, without comments.
func scrape(t *testing.T, c prometheus.Collector) map[string]bool {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).
		ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("%d: %s", rec.Code, rec.Body)
	}
	lines := map[string]bool{}
	for line := range strings.Lines(rec.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines[strings.TrimSuffix(line, "\n")] = true
		}
	}
	return lines
}

func TestScrapeOfATransport(t *testing.T) {
	srv, cfg := newServer(t)
	transport := &hyper.Transport{Proxy: hyper.NoProxy, Config: &hyper.Config{TLS: cfg}}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	testScrape(t, srv, client, hyperprom.New(transport))
}

func TestScrapeOfAConfiguredTransport(t *testing.T) {
	srv, cfg := newServer(t)
	monitor := &hyper.Monitor{}
	transport := &http.Transport{TLSClientConfig: cfg}
	if err := hyper.ConfigureTransport(transport, &hyper.Config{Monitor: monitor}); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	testScrape(t, srv, client, hyperprom.New(monitor))
}

// testScrape compares the metrics of a Transport or a Monitor with the requests of a client.
func testScrape(t *testing.T, srv *httptest.Server, client *http.Client, c hyperprom.Collector) {
	t.Helper()
	for range 3 {
		get(t, client, srv.URL+"/hello")
	}
	get(t, client, srv.URL+"/broken")
	lines := scrape(t, c)
	labels := `{host="` + srv.URL + `",proxy=""`
	for _, want := range []string{
		"hyper_connections" + labels + `,state="active"} 0`,
		"hyper_connections" + labels + `,state="idle"} 1`,
		"hyper_connections" + labels + `,state="draining"} 0`,
		"hyper_connections_dialing" + labels + "} 0",
		"hyper_streams" + labels + "} 0",
		"hyper_requests_waiting" + labels + "} 0",
		"hyper_dials_total" + labels + "} 1",
		"hyper_dials_failed_total" + labels + "} 0",
		"hyper_connections_opened_total" + labels + "} 1",
		"hyper_connections_closed_total" + labels + "} 0",
		"hyper_requests_total" + labels + "} 4",
		`hyper_retries_total{cause="refused",` + labels[1:] + "} 0",
		"hyper_streams_opened_total" + labels + "} 4",
		`hyper_resets_total{code="INTERNAL_ERROR",` + labels[1:] + `,side="received"} 1`,
		"hyper_data_bytes_total" + labels + `,side="received"} 15`,
		"hyper_http1_requests_total 0",
		"hyper_events_lost_total 0",
	} {
		if !lines[want] {
			t.Errorf("no line %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%v", lines)
	}
	problems, err := testutil.CollectAndLint(c)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// A source is a Source with fixed figures.
type source hyper.TransportStats

// Stats returns the figures.
func (s source) Stats() hyper.TransportStats { return hyper.TransportStats(s) }

// TestEveryFigureIsExported checks that every figure is exported, and that the figures of forgotten
// hosts have the host label "forgotten".
func TestEveryFigureIsExported(t *testing.T) {
	fields := reflect.TypeFor[hyper.HostStats]()
	for i := range fields.NumField() {
		var host hyper.HostStats
		switch v := reflect.ValueOf(&host).Elem().Field(i); v.Kind() {
		case reflect.String: // Host, Proxy
			continue
		case reflect.Map:
			v.Set(reflect.ValueOf(hyper.CodeCounts{hyper.ErrCodeCancel: 4711}))
		case reflect.Struct:
			for j := range v.NumField() {
				v.Field(j).SetInt(4711)
			}
		default:
			v.SetInt(4711)
		}
		forgotten := host
		forgotten.Requests += 1
		host.Host = "https://example.com"
		found := map[string]int{}
		for line := range scrape(t, hyperprom.New(source{Hosts: []hyper.HostStats{host},
			Forgotten: forgotten})) {
			for _, label := range []string{"https://example.com", "forgotten"} {
				if strings.Contains(line, `host="`+label+`"`) && strings.Contains(line, "4711") {
					found[label]++
				}
			}
		}
		if found["https://example.com"] == 0 || found["forgotten"] == 0 &&
			fields.Field(i).Name != "Requests" {
			t.Errorf("%s is not exported: %v", fields.Field(i).Name, found)
		}
	}
	all := scrape(t, hyperprom.New(source{HTTP1Requests: 11, EventsLost: 12}))
	if !all["hyper_http1_requests_total 11"] || !all["hyper_events_lost_total 12"] {
		t.Errorf("%v", all)
	}
}

func Example() {
	transport := &hyper.Transport{}
	prometheus.MustRegister(hyperprom.New(transport))
	http.Handle("/metrics", promhttp.Handler())
}
