package dropin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
)

// A consulServer has Consul's key-value store. A query may block until the index has changed.
type consulServer struct {
	mu      sync.Mutex // guards the fields below
	index   uint64
	changed chan struct{} // closed at the next change
	values  map[string]consulValue
	blocked chan struct{} // gets a value for each query that blocks
	goAway  bool          // send GOAWAY with the response to a PUT
}

// A consulValue is a value and the indexes at which it was created and last changed.
type consulValue struct {
	value  string
	create uint64
	modify uint64
}

// newConsulServer returns an empty server.
func newConsulServer() *consulServer {
	return &consulServer{index: 1, changed: make(chan struct{}), values: make(map[string]consulValue),
		blocked: make(chan struct{}, 100)}
}

// ServeHTTP serves the key-value store.
func (s *consulServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutPrefix(r.URL.Path, "/v1/kv/")
	switch {
	case r.Header.Get("X-Consul-Token") != "token":
		w.WriteHeader(403)
		io.WriteString(w, "Permission denied")
	case !ok:
		w.WriteHeader(500)
		io.WriteString(w, "No cluster leader")
	case r.Method == "PUT":
		s.put(w, r, key)
	default:
		s.get(w, r, key)
	}
}

// put changes a value.
func (s *consulServer) put(w http.ResponseWriter, r *http.Request, key string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.values[key]
	if cas := r.URL.Query().Get("cas"); cas != "" && cas != strconv.FormatUint(old.modify, 10) {
		io.WriteString(w, "false")
		return
	}
	s.index++
	if old.create == 0 {
		old.create = s.index
	}
	s.values[key] = consulValue{string(body), old.create, s.index}
	close(s.changed)
	s.changed = make(chan struct{})
	if s.goAway {
		w.Header().Set("Connection", "close") // Go's server sends GOAWAY
	}
	io.WriteString(w, "true")
}

// get returns a value, after the index has changed if the query says so.
func (s *consulServer) get(w http.ResponseWriter, r *http.Request, key string) {
	after, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		wait = 5 * time.Minute
	}
	timeout := time.After(wait)
	s.mu.Lock()
	defer s.mu.Unlock()
	for over := false; s.index <= after && !over; {
		changed := s.changed
		s.mu.Unlock()
		s.blocked <- struct{}{}
		select {
		case <-changed:
		case <-timeout:
			over = true
		case <-r.Context().Done():
			over = true
		}
		s.mu.Lock()
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(s.index, 10))
	w.Header().Set("X-Consul-KnownLeader", "true")
	w.Header().Set("X-Consul-LastContact", "0")
	value, ok := s.values[key]
	if !ok {
		w.WriteHeader(404)
		return
	}
	json.NewEncoder(w).Encode([]map[string]any{{
		"Key": key, "Value": base64.StdEncoding.EncodeToString([]byte(value.value)),
		"CreateIndex": value.create, "ModifyIndex": value.modify,
	}})
}

// consul returns Consul's client for the server at url.
func (l *lane) consul(url, token string) *consul.Client {
	c, err := consul.NewClient(&consul.Config{Address: url, HttpClient: l.Client(), Token: token})
	l.Must(err)
	return c
}

// consulQuery returns the options of a query that blocks until the index is above this one.
func consulQuery(ctx context.Context, index uint64, wait time.Duration) *consul.QueryOptions {
	return (&consul.QueryOptions{WaitIndex: index, WaitTime: wait}).WithContext(ctx)
}

func TestConsul(t *testing.T) { compareAll(t, useConsul) }

// useConsul uses the key-value store.
func useConsul(l *lane) {
	l.Loose = true
	server := newConsulServer()
	url := l.Serve(server)
	kv := l.consul(url, "token").KV()
	for i := range 5 {
		_, err := kv.Put(&consul.KVPair{Key: "watched", Value: fmt.Append(nil, "value ", i)}, nil)
		l.Must(err)
	}
	pair, meta, err := kv.Get("watched", consulQuery(l.Context(), 0, 0))
	l.Must(err)
	l.Report("%s at %d, known leader %v", pair.Value, meta.LastIndex, meta.KnownLeader)
	ok, _, err := kv.CAS(&consul.KVPair{Key: "watched", Value: []byte("late"), ModifyIndex: 1}, nil)
	l.Report("compare and set: %v %v", ok, err)
	useBlockingQueries(l, server, kv, meta.LastIndex)
	useConsulTrouble(l, server, url)
}

// useBlockingQueries makes queries that block. One of them goes on while GOAWAY drains its
// connection, and the next one uses another connection.
func useBlockingQueries(l *lane, server *consulServer, kv *consul.KV, index uint64) {
	server.mu.Lock()
	server.goAway = true
	server.mu.Unlock()
	for i := range 3 {
		got := make(chan string, 1)
		go func() {
			pair, meta, err := kv.Get("watched", consulQuery(l.Context(), index, time.Minute))
			if err != nil {
				got <- err.Error()
				return
			}
			got <- fmt.Sprintf("%s at %d", pair.Value, meta.LastIndex)
		}()
		<-server.blocked
		_, err := kv.Put(&consul.KVPair{Key: "watched", Value: fmt.Append(nil, "change ", i)}, nil)
		l.Must(err)
		l.Report("blocking query: %s", <-got)
		index++
	}
	pair, meta, err := kv.Get("watched", consulQuery(l.Context(), index, 100*time.Millisecond))
	l.Must(err)
	l.Report("nothing changes: %s at %d", pair.Value, meta.LastIndex)
	<-server.blocked

	ctx, cancel := context.WithCancel(l.Context())
	go func() { <-server.blocked; cancel() }()
	_, _, err = kv.Get("watched", consulQuery(ctx, index, time.Minute))
	l.Fails("canceled", err)
	ctx, cancel = context.WithTimeout(l.Context(), 300*time.Millisecond)
	_, _, err = kv.Get("watched", consulQuery(ctx, index, time.Minute))
	l.Fails("deadline", err)
	cancel()
}

// useConsulTrouble makes requests that fail.
func useConsulTrouble(l *lane, server *consulServer, url string) {
	pair, _, err := l.consul(url, "token").KV().Get("nothing", nil)
	l.Report("not there: %v %v", pair, err)
	for what, c := range map[string]*consul.Client{"no permission": l.consul(url, "guess"),
		"no leader": l.consul(url, "token")} {
		if what == "no leader" {
			_, err = c.Status().Leader()
		} else {
			_, _, err = c.KV().Get("watched", nil)
		}
		if e, ok := errors.AsType[consul.StatusError](err); !ok ||
			e.Code != map[string]int{"no permission": 403, "no leader": 500}[what] {
			l.Errorf("%s: %T %v", what, err, err)
		}
	}
	_, _, err = l.consul(l.Refused(), "token").KV().Get("watched", nil)
	l.Fails("refused", err)

	l.Try("get", url, func(ctx context.Context, url string) (string, error) {
		pair, _, err := l.consul(url, "token").KV().Get("watched", consulQuery(ctx, 0, 0))
		if err != nil {
			return "", err
		}
		return string(pair.Value), nil
	})
	l.Try("put", url, func(ctx context.Context, url string) (string, error) {
		before := server.count()
		_, err := l.consul(url, "token").KV().Put(&consul.KVPair{Key: "other", Value: octets(1, 100_000)},
			(&consul.WriteOptions{}).WithContext(ctx))
		return fmt.Sprintf("done %d times", server.count()-before), err
	})
}

// count returns the index, which is the number of changes.
func (s *consulServer) count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index
}
