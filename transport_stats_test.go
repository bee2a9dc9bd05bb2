package hyper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/wire"
)

// An eventLog records what OnConn was told, as text: the kind, and the reason if there is one.
type eventLog struct {
	mu   sync.Mutex
	list []string
}

func (l *eventLog) add(e ConnEvent) {
	text := e.Kind.String()
	if e.Reason != 0 {
		text += " " + e.Reason.String()
	}
	l.mu.Lock()
	l.list = append(l.list, text)
	l.mu.Unlock()
}

func (l *eventLog) want(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.list, want) {
		t.Errorf("events %q, want %q", l.list, want)
	}
}

// fill gives each field of s another value, and returns what s added to itself must be.
func fill(s *HostStats) HostStats {
	var twice HostStats
	n := int64(0)
	var each func(v, sum reflect.Value)
	each = func(v, sum reflect.Value) {
		n++
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				each(v.Field(i), sum.Field(i))
			}
		case reflect.Int, reflect.Int64:
			v.SetInt(n)
			sum.SetInt(2 * n)
		case reflect.Map:
			v.Set(reflect.ValueOf(CodeCounts{ErrCodeCancel: n, ErrCodeNo: 1}))
			sum.Set(reflect.ValueOf(CodeCounts{ErrCodeCancel: 2 * n, ErrCodeNo: 2}))
		}
	}
	each(reflect.ValueOf(s).Elem(), reflect.ValueOf(&twice).Elem())
	return twice
}

// The totals include every field.
func TestTotalHasEveryFigure(t *testing.T) {
	var s, sum HostStats
	want := fill(&s)
	sum.add(&s)
	sum.add(&s)
	if !reflect.DeepEqual(sum, want) {
		t.Errorf("got  %+v\nwant %+v", sum, want)
	}
}

// What a host has counted stays in the total when the host is forgotten. If the host is used again,
// its own numbers continue where they were, unless 1,000 other hosts have been forgotten since.
func TestFiguresOutliveTheirHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &Transport{Proxy: NoProxy, UnencryptedHTTP2: true}
		tr.Config = &Config{DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := h2test.Pipe()
			peer := h2test.NewPeer(t, server)
			go func() {
				peer.Handshake()
				peer.WantHeaders("a request", 1)
				peer.WriteHeaders(1, wire.EndStream, ":status: 204")
			}()
			return client, nil
		}}
		visit := func(i int) {
			t.Helper()
			req, _ := http.NewRequest("GET", fmt.Sprintf("http://h%04d.example", i), nil)
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			tr.CloseIdleConnections()
			synctest.Wait()
		}
		const hosts = maxForgotten + 10
		var last HostStats
		for i := range hosts {
			visit(i)
			if i%100 == 0 {
				s := tr.Stats()
				if s.Total.BytesReceived <= last.BytesReceived || s.Total.BytesSent <= last.BytesSent {
					t.Fatalf("%+v after %+v", s.Total, last)
				}
				last = s.Total
			}
		}
		visit(hosts - 1) // again: its book still exists
		visit(0)         // again: its book does not exist any more
		s := tr.Stats()
		if n := len(s.Hosts); n != maxForgotten {
			t.Errorf("%d hosts are known, want %d", n, maxForgotten)
		}
		total := s.Total
		want := HostStats{
			Dials: hosts + 2, ConnsOpened: hosts + 2, ConnsClosed: hosts + 2,
			Requests: hosts + 2, StreamsOpened: hosts + 2,
			GoAwaysSent: CodeCounts{ErrCodeNo: hosts + 2}, GoAwaysReceived: CodeCounts{},
			ResetsSent: CodeCounts{}, ResetsReceived: CodeCounts{},
			BytesSent: total.BytesSent, BytesReceived: total.BytesReceived,
		}
		if fmt.Sprint(total) != fmt.Sprint(want) {
			t.Errorf("got  %+v\nwant %+v", total, want)
		}
		for _, h := range s.Hosts {
			want := int64(1)
			if h.Host == fmt.Sprintf("http://h%04d.example", hosts-1) {
				want = 2
			}
			if h.Requests != want || h.ConnsOpened != want {
				t.Errorf("%s: %d requests, %d connections, want %d", h.Host, h.Requests, h.ConnsOpened, want)
			}
		}
		if s.Forgotten.Requests != hosts+2-maxForgotten-1 ||
			s.Forgotten.GoAwaysSent[ErrCodeNo] != s.Forgotten.Requests {
			t.Errorf("forgotten: %+v", s.Forgotten)
		}
		if s.Hosts[0].Host != "http://h0000.example" {
			t.Errorf("the first host is %s", s.Hosts[0].Host)
		}
		if tr.hosts.Len() != 0 {
			t.Errorf("%d hosts are not forgotten", tr.hosts.Len())
		}
		for _, b := range tr.books.byName {
			if b.refs != 0 || b.conns != nil {
				t.Errorf("%v: %d references, %d connections", b.name, b.refs, len(b.conns))
			}
		}
	})
}

// A book is kept while a connection of its host drains, even if the host itself is forgotten.
func TestBookOutlivesDrainingConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, &Transport{})
		c := f.get("/")
		peer := f.peer("the request")
		peer.WantHeaders("the request", 1)
		peer.WriteHeaders(1, 0, ":status: 200")
		resp := c.wantStatus("the response", 200)
		peer.WriteGoAway(1, wire.NoError, "")
		synctest.Wait()
		hosts := f.tr.hosts.Len()
		if s := f.tr.Stats().Total; hosts != 0 || s.ConnsDraining != 1 || s.ConnsOpen != 1 ||
			s.StreamsOpen != 1 {
			t.Errorf("%d hosts, %+v", hosts, s)
		}
		if n := f.tr.books.forgotten.Len(); n != 0 {
			t.Errorf("%d books are forgotten", n)
		}
		peer.WriteRSTStream(1, wire.InternalError)
		synctest.Wait()
		resp.Body.Close()
		synctest.Wait()
		if s := f.tr.Stats().Total; s.ConnsOpen != 0 || s.ConnsClosed != 1 ||
			s.ResetsReceived[ErrCodeInternal] != 1 {
			t.Errorf("%+v", s)
		}
		if n := f.tr.books.forgotten.Len(); n != 1 {
			t.Errorf("%d books are forgotten, want 1", n)
		}
	})
}

// If a dialer returns after its dial was given up, its connection is still counted.
func TestLateConnectionIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var events eventLog
		f := newFarm(t, &Transport{OnConn: events.add, Config: &Config{HandshakeTimeout: time.Second / 2}})
		f.refer = func(context.Context, string) error {
			<-release
			return nil
		}
		c := f.get("/")
		synctest.Wait()
		if s := f.tr.Stats().Total; s.ConnsDialing != 1 || s.Waiting != 1 || s.Dials != 1 {
			t.Errorf("while it is dialled: %+v", s)
		}
		c.wantErr("the dialer does not return", ErrHandshakeTimeout)
		synctest.Wait()
		if s := f.tr.Stats().Total; s.ConnsDialing != 0 || s.Waiting != 0 || s.DialsFailed != 1 {
			t.Errorf("when it is given up: %+v", s)
		}
		close(release)
		synctest.Wait()
		s := f.tr.Stats().Total
		if s.ConnsOpened != s.Dials || s.ConnsClosed != s.ConnsOpened ||
			s.ConnsOpen+int(s.HandshakesFailed) != 0 {
			t.Errorf("when it has returned: %+v", s)
		}
		for _, b := range f.tr.books.byName {
			if b.refs != 0 {
				t.Errorf("%d references", b.refs)
			}
		}
	})
}

// Codes that RFC 9113 does not define are counted together, so that they cannot make the statistics
// grow.
func TestUnknownCodesAreCountedTogether(t *testing.T) {
	o := owner{book: &book{t: &Transport{}}}
	for code := range ErrCode(1000) {
		o.count(resetsReceived, code*code)
	}
	got := o.book.figures().ResetsReceived
	if len(got) != 5 || got[ErrCodeInternal] != 996 { // 0, 1, 4 and 9 are defined
		t.Errorf("%v", got)
	}
}

// Requests go on while OnConn blocks. Events that it is not told of are counted. If it was told
// that a connection opened, it is also told that the connection closed.
func TestBlockedHookHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var events eventLog
		f := newFarm(t, &Transport{OnConn: func(e ConnEvent) {
			<-release
			events.add(e)
		}})
		const conns = maxEvents
		for range conns {
			f.firstPeer()
			f.tr.CloseIdleConnections()
			synctest.Wait()
		}
		f.tr.books.events.mu.Lock()
		waiting, lost := len(f.tr.books.events.waiting), f.tr.books.events.lost
		f.tr.books.events.mu.Unlock()
		if waiting > maxEvents+1 || lost < conns/2-1 || f.tr.Stats().EventsLost != lost {
			t.Errorf("%d events wait, %d are lost", waiting, lost)
		}
		close(release)
		synctest.Wait()
		for i, e := range events.list {
			if want := []string{"opened", "closed close_idle"}[i%2]; e != want {
				t.Fatalf("event %d is %s, want %s", i, e, want)
			}
		}
		if n := int64(len(events.list)); n != 2*(conns-lost) {
			t.Errorf("%d events came, %d were lost", n, lost)
		}
		f.firstPeer()
		synctest.Wait()
		if last := events.list[len(events.list)-1]; last != "opened" {
			t.Errorf("the last event is %s", last)
		}
	})
}

// If OnConn ends its goroutine, it is still called for the next event.
func TestHookThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events eventLog
		f := newFarm(t, &Transport{OnConn: func(e ConnEvent) {
			events.add(e)
			runtime.Goexit()
		}})
		f.firstPeer()
		f.tr.CloseIdleConnections()
		synctest.Wait()
		f.firstPeer()
		synctest.Wait()
		events.want(t, "opened", "closed close_idle", "opened")
	})
}

// OnConn may call all methods of the Transport and of the connection.
func TestHookMayUseTheTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr *Transport
		calls := 0
		tr = &Transport{OnConn: func(e ConnEvent) {
			calls++
			tr.Stats()
			tr.Conns()
			tr.CloseIdleConnections()
			if e.Conn != nil {
				e.Conn.Stats()
				e.Conn.GoAway()
				e.Conn.Draining()
			}
			if e.Kind == ConnDraining {
				e.Conn.Close()
			}
		}}
		f := newFarm(t, tr)
		c := f.get("/")
		peer := f.peer("the first")
		peer.WantHeaders("the request", 1)
		peer.WriteGoAway(1, wire.NoError, "")
		c.wantErr("the hook closes the connection", ErrClosed)
		synctest.Wait()
		if calls != 3 {
			t.Errorf("%d calls", calls)
		}
		f.refer = func(context.Context, string) error { return errors.New("no route") }
		f.get("/").wantErr("dialling fails", nil)
		synctest.Wait()
		if calls != 4 {
			t.Errorf("%d calls", calls)
		}
	})
}

// decreased returns the name of a counter that is smaller in s than in before, or "".
func decreased(before, s HostStats) string {
	gauges := []string{"ConnsOpen", "ConnsDialing", "ConnsDraining", "ConnsIdle", "Waiting", "StreamsOpen"}
	a, b := reflect.ValueOf(before), reflect.ValueOf(s)
	for i := range a.NumField() {
		name := a.Type().Field(i).Name
		if a.Field(i).CanInt() && !slices.Contains(gauges, name) && b.Field(i).Int() < a.Field(i).Int() {
			return name
		}
	}
	for i, counts := range before.byCode() {
		for code, n := range *counts {
			if (*s.byCode()[i])[code] < n {
				return code.String()
			}
		}
	}
	return ""
}

// Stats is called while requests begin and end and connections end.
func TestTotalNeverDecreases(t *testing.T) {
	srv := h2test.HTTP2Server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			panic(http.ErrAbortHandler)
		}
		w.Write(make([]byte, 1000))
	})
	tr := &Transport{Proxy: NoProxy, Config: &Config{TLS: h2test.ClientTLS()}}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	const callers, requests = 4, 50
	for range callers {
		wg.Go(func() {
			for i := range requests {
				path := "/"
				if i%5 == 0 {
					path = "/broken"
				}
				if resp, err := (&http.Client{Transport: tr}).Get(srv.URL + path); err == nil {
					resp.Body.Close()
				}
				if i%10 == 0 {
					tr.CloseIdleConnections()
				}
			}
		})
	}
	over := make(chan struct{})
	go func() {
		wg.Wait()
		close(over)
	}()
	var last HostStats
	for done := false; !done; {
		select {
		case <-over:
			done = true
		default:
			runtime.Gosched()
		}
		s := tr.Stats().Total
		if name := decreased(last, s); name != "" {
			t.Fatalf("%s: %+v after %+v", name, s, last)
		}
		if s.ConnsOpened < s.ConnsClosed+int64(s.ConnsOpen) || s.Dials < s.ConnsOpened {
			t.Fatalf("%+v", s)
		}
		tr.Conns()
		last = s
	}
	if last.Requests != callers*requests || last.ResetsReceived[ErrCodeInternal] != callers*requests/5 {
		t.Errorf("%+v", last)
	}
}
