package k8s

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"gohyper.dev/hyper/internal/lanes"
)

// A lane is one run of an experiment over one transport, with an API server.
type lane struct {
	*lanes.Lane
	server *apiServer
	url    string
}

// compare runs an experiment over each transport, each with its own server.
func compare(t *testing.T, experiment func(*lane)) {
	lanes.Compare(t, func(l *lanes.Lane) {
		l.Loose = true
		server := newAPIServer()
		experiment(&lane{l, server, l.Serve(server)})
	})
}

// scheme knows the types of the core API.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := corev1.AddToScheme(s); err != nil {
		panic(err)
	}
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	return s
}()

// connect returns client-go's REST client, which the typed clients use.
func (l *lane) connect(url string) *rest.RESTClient {
	config := &rest.Config{Host: url, APIPath: "/api", Transport: l.Transport, QPS: -1, Timeout: 0}
	config.GroupVersion = &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientFor(config)
	l.Must(err)
	return c
}

// configMap returns a config map with one value.
func configMap(name, value string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{Data: map[string]string{"key": value}}
	m.Name = name
	return m
}

// put creates or replaces a config map.
func put(ctx context.Context, c *rest.RESTClient, m *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	got := new(corev1.ConfigMap)
	err := c.Put().Namespace("default").Resource("configmaps").Name(m.Name).Body(m).Do(ctx).Into(got)
	return got, err
}

// get returns a config map.
func get(ctx context.Context, c *rest.RESTClient, name string) (*corev1.ConfigMap, error) {
	got := new(corev1.ConfigMap)
	err := c.Get().Namespace("default").Resource("configmaps").Name(name).Do(ctx).Into(got)
	return got, err
}

// refusal reports an error by what users of client-go can find out about it.
func (l *lane) refusal(what string, err error) {
	l.Helper()
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		l.Report("%s: %s", what, reason)
		return
	}
	l.Fails(what, err)
}

func TestObjects(t *testing.T) {
	compare(t, func(l *lane) {
		c, ctx := l.connect(l.url), l.Context()
		for i := range 20 {
			l.server.mu.Lock()
			l.server.goAway = i >= 10
			l.server.mu.Unlock()
			_, err := put(ctx, c, configMap(fmt.Sprint("map-", i%5), fmt.Sprint(i)))
			l.Must(err)
		}
		list := new(corev1.ConfigMapList)
		l.Must(c.Get().Namespace("default").Resource("configmaps").Do(ctx).Into(list))
		l.Report("%d maps at %s", len(list.Items), list.ResourceVersion)
		got, err := get(ctx, c, "map-3")
		l.Must(err)
		l.Report("map-3: %v at %s", got.Data, got.ResourceVersion)
		stale := got.DeepCopy()
		_, err = put(ctx, c, got)
		l.Must(err)
		_, err = put(ctx, c, stale)
		l.refusal("stale", err)
		_, err = get(ctx, c, "nothing")
		l.refusal("not there", err)
		_, err = get(ctx, l.connect(l.Refused()), "map-3")
		l.refusal("refused", err)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		_, err = get(ended, c, "map-3")
		l.refusal("canceled", err)

		busy := 0
		l.server.mu.Lock()
		l.server.trouble = func(w http.ResponseWriter, _ *http.Request) bool {
			if busy++; busy > 2 {
				return false
			}
			w.Header().Set("Retry-After", "0")
			l.server.status(w, 429, metav1.StatusReasonTooManyRequests, "slow down")
			return true
		}
		l.server.mu.Unlock()
		_, err = get(ctx, c, "map-3")
		l.Report("busy: %v after %d attempts", err, busy)
		l.Try("get", l.url, func(ctx context.Context, url string) (string, error) {
			got, err := get(ctx, l.connect(url), "map-3")
			return got.Data["key"], err
		})
		l.Try("put", l.url, func(ctx context.Context, url string) (string, error) {
			_, err := put(ctx, l.connect(url), configMap("other", strings.Repeat("x", 100_000)))
			return "done", err
		})
	})
}

// TestWatchThroughGoAway checks that a watch goes on and loses no event while GOAWAY drains its
// connection and other requests use new connections.
func TestWatchThroughGoAway(t *testing.T) {
	compare(t, func(l *lane) {
		c, ctx := l.connect(l.url), l.Context()
		w, err := c.Get().Namespace("default").Resource("configmaps").
			VersionedParams(&metav1.ListOptions{Watch: true, ResourceVersion: "1"},
				metav1.ParameterCodec).Watch(ctx)
		l.Must(err)
		defer w.Stop()
		l.server.mu.Lock()
		l.server.goAway = true
		l.server.mu.Unlock()
		for i := range 10 {
			_, err := put(ctx, c, configMap("watched", fmt.Sprint(i)))
			l.Must(err)
			e := <-w.ResultChan()
			m, ok := e.Object.(*corev1.ConfigMap)
			if !ok {
				l.Fatalf("%v %T", e.Type, e.Object)
			}
			l.Report("%s %s at %s", e.Type, m.Data["key"], m.ResourceVersion)
		}
		l.server.mu.Lock()
		l.Report("%d watch", l.server.watches)
		l.server.mu.Unlock()
		l.Cut(l.url)
		e, open := <-w.ResultChan()
		l.Report("cut off: %v %v", e.Type, open)
	})
}

// A recorder collects the events that an informer reports, in order.
type recorder struct {
	mu     sync.Mutex // guards events
	events []string
}

// add adds an event.
func (r *recorder) add(kind watch.EventType, object any) {
	m, ok := object.(*corev1.ConfigMap)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf("%s %s at %s", kind, m.Data["key"], m.ResourceVersion))
}

// TestInformerLosesNoEvent checks that an informer reports each change once and in order, whatever
// happens to the connections.
func TestInformerLosesNoEvent(t *testing.T) {
	for name, trouble := range map[string]func(l *lane, i int){
		"GOAWAY":    func(l *lane, _ int) { l.server.goAway = true },
		"break off": func(l *lane, _ int) { l.server.breakOff = 2 },
	} {
		t.Run(name, func(t *testing.T) { compare(t, func(l *lane) { informer(l, trouble) }) })
	}
}

// TestInformerAfterCuts checks that an informer continues at the same version after its connections
// were cut.
func TestInformerAfterCuts(t *testing.T) {
	compare(t, func(l *lane) {
		informer(l, func(l *lane, i int) {
			if i%3 == 2 {
				l.server.mu.Unlock() // the handlers that end need the lock
				l.Cut(l.url)
				l.server.mu.Lock()
			}
		})
	})
}

// informer changes a config map and requires that an informer reports all changes. It calls trouble
// between the changes.
func informer(l *lane, trouble func(l *lane, i int)) {
	c := l.connect(l.url)
	_, err := put(l.Context(), c, configMap("watched", "first"))
	l.Must(err)
	source := cache.NewListWatchFromClient(c, "configmaps", "default", fields.Everything())
	shared := cache.NewSharedIndexInformer(source, &corev1.ConfigMap{}, 0, cache.Indexers{})
	var seen recorder
	_, err = shared.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { seen.add(watch.Added, object) },
		UpdateFunc: func(_, object any) { seen.add(watch.Modified, object) },
		DeleteFunc: func(object any) { seen.add(watch.Deleted, object) },
	})
	l.Must(err)
	ctx, cancel := context.WithCancel(l.Context())
	done := make(chan struct{})
	go func() {
		shared.RunWithContext(ctx)
		close(done)
	}()
	if !cache.WaitForCacheSync(ctx.Done(), shared.HasSynced) {
		l.Fatal("the informer has not listed")
	}
	l.await("the watch",
		func() bool { l.server.mu.Lock(); defer l.server.mu.Unlock(); return l.server.watches > 0 })
	for i := range 6 {
		l.server.mu.Lock()
		trouble(l, i)
		l.server.changeLocked(watch.Modified, *configMap("watched", fmt.Sprint(i)))
		l.server.mu.Unlock()
		l.await("the event", func() bool {
			seen.mu.Lock()
			defer seen.mu.Unlock()
			return len(seen.events) >= i+2
		})
	}
	cancel()
	<-done
	for _, line := range seen.events {
		l.Report("%s", line)
	}
	object, exists, err := shared.GetStore().GetByKey("default/watched")
	l.Must(err)
	l.Report("in the store: %v %v", exists, object.(*corev1.ConfigMap).Data)
}

// await waits until ready returns true.
func (l *lane) await(what string, ready func() bool) {
	l.Helper()
	for end := time.Now().Add(2 * time.Minute); !ready(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatalf("%s does not come", what)
		}
	}
}
