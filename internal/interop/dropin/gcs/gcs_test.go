package gcs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	gax "github.com/googleapis/gax-go/v2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	"gohyper.dev/hyper/internal/lanes"
)

// A storageServer has one bucket of the JSON API of Cloud Storage. It supports uploads in one
// request, and resumable uploads, of which a client can ask what has arrived.
type storageServer struct {
	url string // for clients

	mu      sync.Mutex // guards the fields below
	objects map[string][]byte
	session []byte // what has arrived of the resumable upload
	name    string // the name of its object
	chunks  int
	queries int // requests that ask what has arrived
	trouble func(w http.ResponseWriter, r *http.Request) bool
	cut     int // bytes after which a download is cut off; 0: never
	reads   int
}

// ServeHTTP serves the API.
func (s *storageServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	query := r.URL.Query()
	switch {
	case s.trouble != nil && s.trouble(w, r):
	case r.URL.Path == "/session":
		s.chunk(w, r)
	case query.Get("uploadType") == "resumable":
		s.name, s.session = query.Get("name"), nil
		w.Header().Set("Location", s.url+"/session")
	case query.Get("uploadType") == "multipart":
		s.upload(w, r)
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/bucket/"):
		s.download(w, r, strings.TrimPrefix(r.URL.Path, "/bucket/"))
	case r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/b/bucket/o"):
		var items []map[string]string
		for i := range 10 {
			if name := fmt.Sprint("object-", i); s.objects[name] != nil {
				items = append(items, s.attributes(name))
			}
		}
		json.NewEncoder(w).Encode(map[string]any{"kind": "storage#objects", "items": items})
	default:
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		s.object(w, r, name)
	}
}

// object returns or deletes the attributes of an object.
func (s *storageServer) object(w http.ResponseWriter, r *http.Request, name string) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case s.objects[name] == nil:
		w.WriteHeader(404)
		io.WriteString(w,
			`{"error":{"code":404,"message":"No such object","errors":[{"reason":"notFound"}]}}`)
	case r.Method == "DELETE":
		delete(s.objects, name)
		w.WriteHeader(204)
	default:
		json.NewEncoder(w).Encode(s.attributes(name))
	}
}

// attributes returns the attributes of an object.
func (s *storageServer) attributes(name string) map[string]string {
	sum := crc32.Checksum(s.objects[name], crc32.MakeTable(crc32.Castagnoli))
	return map[string]string{
		"kind": "storage#object", "bucket": "bucket", "name": name, "generation": "1",
		"size":   strconv.Itoa(len(s.objects[name])),
		"crc32c": strings.TrimSpace(encode(sum)),
	}
}

// encode returns a CRC-32C as the API encodes it.
func encode(sum uint32) string {
	b, _ := json.Marshal([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	return strings.Trim(string(b), `"`)
}

// upload stores the object of an upload in one request.
func (s *storageServer) upload(w http.ResponseWriter, r *http.Request) {
	_, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	parts := multipart.NewReader(r.Body, params["boundary"])
	var meta struct{ Name string }
	part, err := parts.NextPart()
	if err != nil || json.NewDecoder(part).Decode(&meta) != nil {
		w.WriteHeader(400)
		return
	}
	part, err = parts.NextPart()
	if err != nil {
		w.WriteHeader(400)
		return
	}
	body, err := io.ReadAll(part)
	if err != nil {
		return
	}
	s.objects[meta.Name] = body
	json.NewEncoder(w).Encode(s.attributes(meta.Name))
}

// chunk receives a chunk of the resumable upload. If the chunk is cut off, it keeps what has
// arrived.
func (s *storageServer) chunk(w http.ResponseWriter, r *http.Request) {
	text := strings.TrimPrefix(r.Header.Get("Content-Range"), "bytes ")
	span, total, _ := strings.Cut(text, "/")
	if span == "*" {
		s.queries++
	} else {
		s.chunks++
		from, _ := strconv.Atoi(span[:strings.IndexByte(span, '-')])
		if from > len(s.session) {
			w.WriteHeader(400)
			return
		}
		body, err := io.ReadAll(r.Body)
		s.session = append(s.session[:from], body...)
		if err != nil {
			return
		}
	}
	if whole, err := strconv.Atoi(total); err == nil && whole == len(s.session) {
		if s.objects[s.name] = s.session; s.session == nil {
			s.objects[s.name] = []byte{}
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s.attributes(s.name))
		return
	}
	if len(s.session) > 0 {
		w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(s.session)-1))
	}
	if r.Header.Get("X-Guploader-No-308") == "yes" {
		w.Header().Set("X-Http-Status-Code-Override", "308")
		w.WriteHeader(200)
		return
	}
	w.WriteHeader(308)
}

// download sends the content of an object.
func (s *storageServer) download(w http.ResponseWriter, r *http.Request, name string) {
	body, ok := s.objects[name]
	if !ok {
		w.WriteHeader(404)
		return
	}
	s.reads++
	w.Header().Set("X-Goog-Generation", "1")
	from := 0
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		from, _ = strconv.Atoi(text[:strings.IndexByte(text, '-')])
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
	}
	rest := body[from:]
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	if from > 0 {
		w.WriteHeader(206)
	}
	if s.cut == 0 || len(rest) <= s.cut {
		w.Write(rest)
		return
	}
	w.Write(rest[:s.cut])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// client returns Google's client for a server.
func client(l *lanes.Lane, url string) *storage.Client {
	c, err := storage.NewClient(l.Context(), option.WithEndpoint(url+"/storage/v1/"),
		option.WithHTTPClient(l.Client()))
	l.Must(err)
	c.SetRetry(storage.WithBackoff(gax.Backoff{Initial: time.Millisecond, Max: 10 * time.Millisecond}),
		storage.WithPolicy(storage.RetryAlways), storage.WithMaxAttempts(4))
	return c
}

// content returns n bytes that only depend on the seed.
func content(seed int64, n int) []byte {
	p := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(p)
	return p
}

// put uploads an object. It uses chunks if the object is larger than one chunk.
func put(ctx context.Context, c *storage.Client, name string, body []byte) error {
	w := c.Bucket("bucket").Object(name).NewWriter(ctx)
	w.ChunkSize = 256 << 10
	w.ChunkRetryDeadline = 10 * time.Second
	if _, err := w.Write(body); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// get downloads an object.
func get(ctx context.Context, c *storage.Client, name string) ([]byte, error) {
	r, err := c.Bucket("bucket").Object(name).NewReader(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// refusal reports an error that the server explained.
func refusal(l *lanes.Lane, what string, err error) {
	l.Helper()
	e, ok := errors.AsType[*googleapi.Error](err)
	if !ok && !errors.Is(err, storage.ErrObjectNotExist) {
		l.Fails(what, err)
		return
	}
	code := 0
	if ok {
		code = e.Code
	}
	l.Report("%s: %d, not there %v", what, code, errors.Is(err, storage.ErrObjectNotExist))
}

// newServer starts a server.
func newServer(l *lanes.Lane) *storageServer {
	l.Loose = true
	s := &storageServer{objects: make(map[string][]byte)}
	s.url = l.Serve(s)
	return s
}

func TestObjects(t *testing.T) {
	lanes.Compare(t, func(l *lanes.Lane) {
		s := newServer(l)
		c, ctx := client(l, s.url), l.Context()
		for i, n := range []int{10, 200_000, 1 << 20} { // the last one in chunks
			body, name := content(int64(i), n), fmt.Sprint("object-", i)
			l.Must(put(ctx, c, name, body))
			got, err := get(ctx, c, name)
			l.Must(err)
			l.Report("%s: %d bytes, %v", name, len(got), bytes.Equal(got, body))
		}
		l.Report("%d chunks", s.chunks)
		objects := c.Bucket("bucket").Objects(ctx, nil)
		for {
			attrs, err := objects.Next()
			if err != nil {
				break
			}
			l.Report("listed %s %d", attrs.Name, attrs.Size)
		}
		s.mu.Lock()
		s.cut, s.reads = 300_000, 0
		s.mu.Unlock()
		got, err := get(ctx, c, "object-2")
		l.Must(err)
		l.Report("cut off: %d bytes, %v, %d reads", len(got), bytes.Equal(got, content(2, 1<<20)), s.reads)
		l.Must(c.Bucket("bucket").Object("object-0").Delete(ctx))
		_, err = get(ctx, c, "object-0")
		refusal(l, "deleted", err)
		_, err = c.Bucket("bucket").Object("object-0").Attrs(ctx)
		refusal(l, "deleted", err)
		_, err = client(l, l.Refused()).Bucket("bucket").Object("x").Attrs(ctx)
		refusal(l, "refused", err)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		refusal(l, "canceled", put(ended, c, "object-3", content(3, 1<<20)))
		l.Try("attributes", s.url, func(ctx context.Context, url string) (string, error) {
			attrs, err := client(l, url).Bucket("bucket").Object("object-1").Attrs(ctx)
			if err != nil {
				return "", err
			}
			return attrs.Name, nil
		})
	})
}

// TestResumableUpload checks that a resumable upload continues after a connection that was lost in
// the middle of a chunk, after GOAWAY, and after the server has refused a chunk.
func TestResumableUpload(t *testing.T) {
	for _, what := range []string{"reset", "closed", "GOAWAY", "503"} {
		t.Run(what, func(t *testing.T) {
			lanes.Compare(t, func(l *lanes.Lane) {
				s := newServer(l)
				troubles := 2
				s.trouble = func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path != "/session" || s.chunks != 2 || troubles == 0 ||
						r.ContentLength < 100_000 {
						return false
					}
					troubles--
					switch what {
					case "GOAWAY":
						w.Header().Set("Connection", "close") // Go's server sends GOAWAY
						return false
					case "503":
						w.WriteHeader(503)
						return true
					}
					part := make([]byte, 100_000) // a part of the chunk arrives
					io.ReadFull(r.Body, part)
					s.session = append(s.session, part...)
					if what == "closed" {
						l.Cut(s.url)
					}
					panic(http.ErrAbortHandler)
				}
				body := content(9, 1<<20)
				if err := put(l.Context(), client(l, s.url), "object", body); err != nil {
					// The client resumes after a lost connection, but not after a reset.
					refusal(l, what, err)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				l.Report("whole %v, %d troubles left, asked %d times", bytes.Equal(s.objects["object"], body),
					troubles, s.queries)
			})
		})
	}
}
