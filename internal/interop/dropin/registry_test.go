package dropin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// A registryLane is go-containerregistry's client, what crane is made of, and its server, behind a token service and with
// its blobs on a host of their own.
type registryLane struct {
	*lane
	host    string // of the registry
	tokens  atomic.Int64
	trouble func(http.ResponseWriter, *http.Request) bool // answers in the registry's place where it returns true
	options []crane.Option
	remote  []remote.Option
}

var backoff = remote.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 4}

func newRegistryLane(l *lane) *registryLane {
	l.masks = append(l.masks, regexp.MustCompile(`/blobs/uploads/[0-9]+`))
	r := &registryLane{lane: l, trouble: func(http.ResponseWriter, *http.Request) bool { return false }}
	blobs := &blobStore{BlobHandler: registry.NewInMemoryBlobHandler()}
	blobs.url = strings.Replace(l.serve(http.HandlerFunc(blobs.serve)), "127.0.0.1", "localhost", 1)
	server := registry.New(registry.WithBlobHandler(blobs), registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	var url string
	url = l.serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/token":
			r.token(w, req)
		case !strings.HasPrefix(req.Header.Get("Authorization"), "Bearer token-"):
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="registry"`, url))
			w.WriteHeader(401)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`)
		case !r.trouble(w, req):
			server.ServeHTTP(w, req)
		}
	}))
	r.host = strings.TrimPrefix(url, "https://")
	auth := &authn.Basic{Username: "user", Password: "secret"}
	r.options = []crane.Option{crane.WithTransport(l.transport), crane.WithAuth(auth), crane.WithContext(l.Context())}
	r.remote = []remote.Option{remote.WithTransport(l.transport), remote.WithAuth(auth), remote.WithContext(l.Context()), remote.WithRetryBackoff(backoff)}
	return r
}

func (r *registryLane) token(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	if user != "user" || password != "secret" {
		w.WriteHeader(401)
		io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`)
		return
	}
	r.tokens.Add(1)
	fmt.Fprintf(w, `{"token":"token-%s"}`, strings.Join(req.URL.Query()["scope"], "+"))
}

func (r *registryLane) ref(s string) name.Reference {
	ref, err := name.ParseReference(r.host + "/" + s)
	r.must(err)
	return ref
}

// image makes an image, always the same one for a seed.
func (r *registryLane) image(seed int64) v1.Image {
	image, err := random.Image(300_000, 4, random.WithSource(rand.NewSource(seed)))
	r.must(err)
	return image
}

// reportImage pulls every octet of an image and verifies all digests.
func (r *registryLane) reportImage(what string, image v1.Image) {
	r.Helper()
	r.must(validate.Image(image))
	digest, err := image.Digest()
	r.must(err)
	layers, err := image.Layers()
	r.must(err)
	r.report("%s: %s", what, digest)
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		r.must(err)
		digest, n, err := sum(content)
		r.must(err)
		r.must(content.Close())
		r.report("\t%d octets %s", n, digest)
	}
}

// A blobStore sends clients to another host for the content of a blob, as registries of the clouds do.
type blobStore struct {
	registry.BlobHandler
	url string
}

func (b *blobStore) Get(_ context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	return nil, registry.RedirectError{Location: fmt.Sprintf("%s/%s?digest=%s", b.url, repo, h), Code: 307}
}

func (b *blobStore) Stat(ctx context.Context, repo string, h v1.Hash) (int64, error) {
	return b.BlobHandler.(registry.BlobStatHandler).Stat(ctx, repo, h)
}

func (b *blobStore) Put(ctx context.Context, repo string, h v1.Hash, content io.ReadCloser) error {
	return b.BlobHandler.(registry.BlobPutHandler).Put(ctx, repo, h, content)
}

func (b *blobStore) Delete(ctx context.Context, repo string, h v1.Hash) error {
	return b.BlobHandler.(registry.BlobDeleteHandler).Delete(ctx, repo, h)
}

func (b *blobStore) serve(w http.ResponseWriter, r *http.Request) {
	h, err := v1.NewHash(r.URL.Query().Get("digest"))
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	content, err := b.BlobHandler.Get(r.Context(), r.URL.Path, h)
	if err != nil {
		http.Error(w, err.Error(), 404)
		return
	}
	defer content.Close()
	all, _ := io.ReadAll(content)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(all))
}

func TestRegistryPushAndPull(t *testing.T) { compare(t, pushAndPull) }

func pushAndPull(l *lane) {
	r := newRegistryLane(l)
	l.must(crane.Push(r.image(1), r.host+"/some/app:v1", r.options...))
	l.must(crane.Push(r.image(2), r.host+"/some/app:v2", r.options...))
	l.must(crane.Tag(r.host+"/some/app:v2", "latest", r.options...))

	digest, err := crane.Digest(r.host+"/some/app:latest", r.options...)
	l.must(err)
	l.report("digest %s", digest)
	manifest, err := crane.Manifest(r.host+"/some/app:v1", r.options...)
	l.must(err)
	l.report("manifest %s", manifest)
	head, err := crane.Head(r.host+"/some/app:v1", r.options...)
	l.must(err)
	l.report("head %+v", *head)
	config, err := crane.Config(r.host+"/some/app:v1", r.options...)
	l.must(err)
	l.report("config %s", config)

	image, err := crane.Pull(r.host+"/some/app:v1", r.options...)
	l.must(err)
	r.reportImage("pulled", image)

	l.must(crane.Copy(r.host+"/some/app:v1", r.host+"/other/app:copied", r.options...)) // blobs are mounted
	image, err = crane.Pull(r.host+"/other/app:copied", r.options...)
	l.must(err)
	r.reportImage("copied", image)

	tags, err := crane.ListTags(r.host+"/some/app", r.options...)
	l.must(err)
	repositories, err := crane.Catalog(r.host, r.options...)
	l.must(err)
	slices.Sort(repositories)
	l.report("tags %q in %q", tags, repositories)

	l.must(crane.Delete(r.host+"/some/app:v1", r.options...))
	_, err = crane.Digest(r.host+"/some/app:v1", r.options...)
	r.refusal("deleted", err)
	l.report("%d tokens", r.tokens.Load())
}

func TestRegistryIndexAndReferrers(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		index, err := random.Index(100_000, 2, 6, random.WithSource(rand.NewSource(3)))
		l.must(err)
		options := append(slices.Clone(r.remote), remote.WithJobs(8))
		l.must(remote.WriteIndex(r.ref("multi/arch:all"), index, options...))
		pulled, err := remote.Index(r.ref("multi/arch:all"), options...)
		l.must(err)
		l.must(validate.Index(pulled))
		digest, err := pulled.Digest()
		l.must(err)
		l.report("index %s", digest)

		l.must(remote.MultiWrite(map[name.Reference]remote.Taggable{
			r.ref("many:one"):   r.image(4),
			r.ref("many:two"):   r.image(5),
			r.ref("many:three"): r.image(6),
		}, options...))
		repository, err := name.NewRepository(r.host + "/many")
		l.must(err)
		tags, err := remote.List(repository, append(slices.Clone(options), remote.WithPageSize(1))...)
		l.must(err)
		l.report("tags %q", tags)

		subject, err := remote.Get(r.ref("many:one"), options...)
		l.must(err)
		signature := mutate.Subject(r.image(7), subject.Descriptor).(v1.Image)
		l.must(remote.Write(r.ref("many:signature"), signature, options...))
		referrers, err := remote.Referrers(repository.Digest(subject.Digest.String()), options...)
		l.must(err)
		list, err := referrers.IndexManifest()
		l.must(err)
		l.report("referrers %+v", list.Manifests)
	})
}

// The length of such a layer is known when it has been sent.
func TestRegistryStreamedLayer(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		source, err := random.Layer(3<<20, types.DockerLayer, random.WithSource(rand.NewSource(8)))
		l.must(err)
		repository, err := name.NewRepository(r.host + "/streamed")
		l.must(err)
		var layer *stream.Layer
		for try := 0; ; try++ {
			content, err := source.Uncompressed()
			l.must(err)
			layer = stream.NewLayer(content)
			err = remote.WriteLayer(repository, layer, r.remote...)
			if !errors.Is(err, stream.ErrNotComputed) || try == 10 || !l.standard {
				l.must(err)
				break
			}
			l.loose = true // net/http returned before it had closed the body, golang/go#81445
		}
		image, err := mutate.AppendLayers(empty.Image, layer)
		l.must(err)
		l.must(remote.Write(r.ref("streamed:v1"), image, r.remote...))
		pulled, err := remote.Image(r.ref("streamed:v1"), r.remote...)
		l.must(err)
		r.reportImage("streamed", pulled)
	})
}

// refusal reports an error that a registry explained.
func (r *registryLane) refusal(what string, err error) {
	r.Helper()
	e, ok := errors.AsType[*transport.Error](err)
	if !ok {
		r.Errorf("%s: %T %v", what, err, err)
		return
	}
	r.report("%s: status %d, %v, temporary %v, of %s %s", what, e.StatusCode, e.Errors, e.Temporary(), e.Request.Method, e.Request.URL)
}

func TestRegistryTrouble(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		l.must(remote.Write(r.ref("app:v1"), r.image(1), r.remote...))

		_, err := remote.Image(r.ref("app:missing"), r.remote...)
		r.refusal("missing", err)

		stranger := &authn.Basic{Username: "user", Password: "guess"}
		_, err = remote.Image(r.ref("app:v1"), append(slices.Clone(r.remote), remote.WithAuth(stranger))...)
		r.refusal("stranger", err)

		for _, status := range []int{503, 429, 500, 404} {
			var left atomic.Int64
			left.Store(2)
			r.trouble = func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.Contains(req.URL.Path, "/manifests/") || left.Add(-1) < 0 {
					return false
				}
				w.WriteHeader(status)
				return true
			}
			_, err = remote.Image(r.ref("app:v1"), append(slices.Clone(r.remote), remote.WithRetryStatusCodes(429, 500, 503))...)
			if err != nil {
				r.refusal(fmt.Sprintf("twice %d", status), err)
			}
			l.report("twice %d: %d attempts not made", status, left.Load())
		}

		nobody, err := name.ParseReference(strings.TrimPrefix(l.refused(), "https://") + "/app:v1")
		l.must(err)
		_, err = remote.Image(nobody, r.remote...)
		l.fails("refused", err)
	})
}

// A server that ends a stream, or dies, in the middle of a blob or a manifest.
func TestRegistryBrokenOff(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		l.must(remote.Write(r.ref("app:v1"), r.image(1), r.remote...))
		r.trouble = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/blobs/") {
				return false
			}
			w.Write(make([]byte, 100_000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		image, err := remote.Image(r.ref("app:v1"), r.remote...)
		l.must(err)
		layers, err := image.Layers()
		l.must(err)
		content, err := layers[0].Compressed()
		l.must(err)
		_, n, err := sum(content)
		l.fails(fmt.Sprintf("broken off after %d octets", n), err)
		content.Close()
	})
}

func TestRegistryCanceled(t *testing.T) {
	compare(t, func(l *lane) {
		l.loose = true
		r := newRegistryLane(l)
		l.must(remote.Write(r.ref("app:v1"), r.image(1), r.remote...))
		for _, name := range []string{"canceled", "deadline"} {
			ctx, cancel := context.WithCancel(l.Context())
			if name == "deadline" {
				ctx, cancel = context.WithTimeout(l.Context(), time.Second)
			}
			r.trouble = func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.Contains(req.URL.Path, "/blobs/") {
					return false
				}
				w.Write(make([]byte, 100_000))
				w.(http.Flusher).Flush()
				<-req.Context().Done()
				return true
			}
			image, err := remote.Image(r.ref("app:v1"), append(slices.Clone(r.remote), remote.WithContext(ctx))...)
			l.must(err)
			layers, err := image.Layers()
			l.must(err)
			content, err := layers[0].Compressed()
			l.must(err)
			_, err = io.CopyN(io.Discard, content, 100_000)
			l.must(err)
			if name == "canceled" {
				cancel()
			}
			_, n, err := sum(content)
			l.fails(fmt.Sprintf("%s, and then %d octets", name, n), err)
			content.Close()
			cancel()
		}
	})
}
