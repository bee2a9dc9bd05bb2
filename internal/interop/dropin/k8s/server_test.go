package k8s

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// An apiServer has the config maps of one namespace, as the API of Kubernetes shows them. A list
// has a resource version, and a watch begins after one.
type apiServer struct {
	mu       sync.Mutex // guards the fields below
	version  int
	maps     map[string]corev1.ConfigMap
	history  []event
	oldest   int           // versions before this one are gone
	changed  chan struct{} // closed at the next change
	watches  int           // number of watches that began
	lists    int
	goAway   bool // send GOAWAY with each response
	breakOff int  // number of events after which a watch is reset; 0: never
	trouble  func(w http.ResponseWriter, r *http.Request) bool
}

// An event is one change.
type event struct {
	version int
	kind    watch.EventType
	object  corev1.ConfigMap
}

// newAPIServer returns a server without config maps.
func newAPIServer() *apiServer {
	return &apiServer{version: 1, maps: make(map[string]corev1.ConfigMap), changed: make(chan struct{})}
}

// configMaps is the path of the config maps.
const configMaps = "/api/v1/namespaces/default/configmaps"

// ServeHTTP serves the config maps.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if s.goAway { // as kube-apiserver does with --goaway-chance
		w.Header().Set("Connection", "close")
	}
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, configMaps), "/")
	switch {
	case s.trouble != nil && s.trouble(w, r):
	case !strings.HasPrefix(r.URL.Path, configMaps):
		s.status(w, 404, metav1.StatusReasonNotFound, "no such resource")
	case r.Method == "GET" && name == "" && r.URL.Query().Get("watch") != "":
		s.watch(w, r)
	case r.Method == "GET" && name == "":
		s.list(w)
	case r.Method == "GET":
		if object, ok := s.maps[name]; ok {
			json.NewEncoder(w).Encode(object)
			return
		}
		s.status(w, 404, metav1.StatusReasonNotFound, "no such config map")
	case r.Method == "DELETE":
		object := s.maps[name]
		delete(s.maps, name)
		s.changeLocked(watch.Deleted, object)
		s.status(w, 200, "", "")
	default:
		s.write(w, r)
	}
}

// status sends a Status with the result of a request.
func (s *apiServer) status(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	status := metav1.StatusSuccess
	if code >= 400 {
		status = metav1.StatusFailure
	}
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   status, Code: int32(code), Reason: reason, Message: message,
	})
}

// write creates or replaces a config map. If the version is not the current one, it responds with a
// conflict.
func (s *apiServer) write(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var object corev1.ConfigMap
	if err := json.Unmarshal(body, &object); err != nil {
		s.status(w, 400, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	old, exists := s.maps[object.Name]
	if exists && (r.Method == "POST" || object.ResourceVersion != "" &&
		object.ResourceVersion != old.ResourceVersion) {
		s.status(w, 409, metav1.StatusReasonConflict, "the object has been modified")
		return
	}
	kind := watch.Added
	if exists {
		kind = watch.Modified
	}
	w.WriteHeader(map[bool]int{true: 200, false: 201}[exists])
	json.NewEncoder(w).Encode(s.changeLocked(kind, object))
}

// changeLocked makes a change and tells the watches. The caller holds mu.
func (s *apiServer) changeLocked(kind watch.EventType, object corev1.ConfigMap) corev1.ConfigMap {
	s.version++
	object.TypeMeta = metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}
	object.Namespace, object.ResourceVersion = "default", strconv.Itoa(s.version)
	if kind != watch.Deleted {
		s.maps[object.Name] = object
	}
	s.history = append(s.history, event{s.version, kind, object})
	close(s.changed)
	s.changed = make(chan struct{})
	return object
}

// list sends all config maps.
func (s *apiServer) list(w http.ResponseWriter) {
	s.lists++
	list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"}}
	list.ResourceVersion = strconv.Itoa(s.version)
	for _, object := range s.maps {
		list.Items = append(list.Items, object)
	}
	json.NewEncoder(w).Encode(list)
}

// watch sends the changes after a version. It sends a bookmark when there are no more changes for
// now.
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	s.watches++
	after, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if after < s.oldest {
		s.status(w, 410, metav1.StatusReasonExpired, "too old resource version")
		return
	}
	if r.URL.Query().Get("sendInitialEvents") == "true" { // the client sends a list request then
		s.status(w, 422, metav1.StatusReasonInvalid, "sendInitialEvents is not supported")
		return
	}
	sent, bookmark := 0, after
	for {
		for _, e := range s.history {
			if e.version <= after {
				continue
			}
			sendEvent(w, e.kind, e.object)
			after, bookmark = e.version, e.version-1
			if sent++; s.breakOff > 0 && sent == s.breakOff {
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		}
		if bookmark < after && r.URL.Query().Get("allowWatchBookmarks") == "true" {
			mark := corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}}
			mark.ResourceVersion = strconv.Itoa(after)
			sendEvent(w, watch.Bookmark, mark)
			bookmark = after
		}
		w.(http.Flusher).Flush()
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		s.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
}

// sendEvent sends one event of a watch.
func sendEvent(w io.Writer, kind watch.EventType, object corev1.ConfigMap) {
	body, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(w, "{\"type\":%q,\"object\":%s}\n", kind, body)
}
