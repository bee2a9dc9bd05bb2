package dropin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/elastic/go-elasticsearch/v7"
	"github.com/elastic/go-elasticsearch/v7/esapi"
	"github.com/elastic/go-elasticsearch/v7/esutil"
)

// An elasticServer is one node. It can index in bulk and search.
type elasticServer struct {
	mu   sync.Mutex // guards the fields below
	docs map[string]json.RawMessage
	// trouble returns true if it has responded in place of the node.
	trouble func(w http.ResponseWriter, r *http.Request) bool
	seen    int
}

// ServeHTTP serves the node's API.
func (s *elasticServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	w.Header().Set("X-Elastic-Product", "Elasticsearch")
	w.Header().Set("Content-Type", "application/vnd.elasticsearch+json;compatible-with=8")
	switch {
	case s.trouble != nil && s.trouble(w, r):
	case r.URL.Path == "/_bulk" || strings.HasSuffix(r.URL.Path, "/_bulk"):
		s.bulk(w, body)
	case strings.HasSuffix(r.URL.Path, "/_search"):
		fmt.Fprintf(w, `{"hits":{"total":{"value":%d}}}`, len(s.docs))
	case r.URL.Path == "/":
		io.WriteString(w, `{"version":{"number":"8.19.0"}}`)
	default:
		w.WriteHeader(404)
		io.WriteString(w, `{"error":{"type":"index_not_found_exception"},"status":404}`)
	}
}

// bulk performs the actions of a bulk request, which are pairs of lines. It refuses each document
// that begins with "bad".
func (s *elasticServer) bulk(w http.ResponseWriter, body []byte) {
	lines := bytes.Split(bytes.TrimSpace(body), []byte("\n"))
	var items []string
	for i := 0; i+1 < len(lines); i += 2 {
		var action struct {
			Index struct {
				ID string `json:"_id"`
			}
		}
		if err := json.Unmarshal(lines[i], &action); err != nil {
			w.WriteHeader(400)
			return
		}
		if strings.HasPrefix(action.Index.ID, "bad") {
			items = append(items,
				fmt.Sprintf(`{"index":{"_id":%q,"status":400,"error":{"type":"mapper_parsing_exception"}}}`,
					action.Index.ID))
			continue
		}
		s.docs[action.Index.ID] = lines[i+1]
		items = append(items, fmt.Sprintf(`{"index":{"_id":%q,"status":201,"result":"created"}}`,
			action.Index.ID))
	}
	fmt.Fprintf(w, `{"errors":true,"items":[%s]}`, strings.Join(items, ","))
}

// elastic returns Elasticsearch's client for the nodes at urls.
func (l *lane) elastic(urls ...string) *elasticsearch.Client {
	c, err := elasticsearch.NewClient(elasticsearch.Config{
		Addresses: urls, Transport: l.Transport,
		MaxRetries: 3, RetryBackoff: func(int) time.Duration { return time.Millisecond },
		RetryOnStatus: []int{429, 502, 503, 504},
	})
	l.Must(err)
	return c
}

// reportElastic reports a response or an error.
func (l *lane) reportElastic(what string, resp *esapi.Response, err error) {
	l.Helper()
	if err != nil {
		l.Fails(what, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fails(what+", body", err)
		return
	}
	l.Report("%s: %s, error %v, %s", what, resp.Status(), resp.IsError(), body)
}

func TestElasticsearch(t *testing.T) { compareAll(t, useElasticsearch) }

// useElasticsearch indexes and searches.
func useElasticsearch(l *lane) {
	l.Loose = true
	server := &elasticServer{docs: make(map[string]json.RawMessage)}
	url := l.Serve(server)
	c, ctx := l.elastic(url), l.Context()
	resp, err := c.Info(c.Info.WithContext(ctx))
	l.reportElastic("info", resp, err)
	useBulkIndexer(l, c)
	search := func(c *elasticsearch.Client, ctx context.Context) (*esapi.Response, error) {
		query := strings.NewReader(`{"query":{"match_all":{}}}`)
		return c.Search(c.Search.WithContext(ctx), c.Search.WithIndex("docs"), c.Search.WithBody(query))
	}
	resp, err = search(c, ctx)
	l.reportElastic("search", resp, err)
	resp, err = c.Indices.Get([]string{"nothing"})
	l.reportElastic("not there", resp, err)

	troubles := map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"busy":  func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true },
		"reset": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"GOAWAY": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Connection",
				"close")
			return false
		},
		"a stranger": func(w http.ResponseWriter,
			_ *http.Request) bool {
			w.Header().Del("X-Elastic-Product")
			return false
		},
	}
	for _, what := range []string{"busy", "reset", "GOAWAY", "a stranger"} {
		for _, times := range []int{2, 100} {
			server.mu.Lock()
			server.seen = 0
			server.trouble = func(w http.ResponseWriter, r *http.Request) bool {
				return server.seen <= times && troubles[what](w, r)
			}
			server.mu.Unlock()
			// A client checks the product only once.
			resp, err := search(l.elastic(url), ctx)
			l.reportElastic(fmt.Sprint(what, " ", times, " times"), resp, err)
			server.mu.Lock()
			l.Report("\t%d seen", server.seen)
			server.trouble = nil
			server.mu.Unlock()
		}
	}
	resp, err = search(l.elastic(l.Refused(), url), ctx)
	l.reportElastic("one node of two", resp, err)
	resp, err = search(l.elastic(l.Refused()), ctx)
	l.reportElastic("no node", resp, err)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	resp, err = search(c, ended)
	l.reportElastic("canceled", resp, err)
	l.Try("search", url, func(ctx context.Context, url string) (string, error) {
		resp, err := search(l.elastic(url), ctx)
		if err != nil {
			return "", err
		}
		return resp.Status(), resp.Body.Close()
	})
}

// useBulkIndexer indexes with several concurrent workers.
func useBulkIndexer(l *lane, c *elasticsearch.Client) {
	config := esutil.BulkIndexerConfig{Client: c, Index: "docs", NumWorkers: 4, FlushBytes: 20_000}
	indexer, err := esutil.NewBulkIndexer(config)
	l.Must(err)
	var good, bad atomic.Int64
	for i := range 1000 {
		id := fmt.Sprint("good-", i)
		if i%100 == 0 {
			id = fmt.Sprint("bad-", i)
		}
		l.Must(indexer.Add(l.Context(), esutil.BulkIndexerItem{
			Action: "index", DocumentID: id, Body: strings.NewReader(fmt.Sprintf(`{"n":%d,"pad":%q}`, i,
				strings.Repeat("x", 200))),
			OnSuccess: func(context.Context, esutil.BulkIndexerItem,
				esutil.BulkIndexerResponseItem) {
				good.Add(1)
			},
			OnFailure: func(_ context.Context, _ esutil.BulkIndexerItem, _ esutil.BulkIndexerResponseItem,
				err error) {
				if err != nil {
					l.Error(err)
				}
				bad.Add(1)
			},
		}))
	}
	l.Must(indexer.Close(l.Context()))
	stats := indexer.Stats()
	l.Report("bulk: %d and %d, %d indexed, %d failed", good.Load(), bad.Load(), stats.NumIndexed,
		stats.NumFailed)
}
