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

	"gohyper.dev/hyper/internal/lanes"
)

// A registryLane runs go-containerregistry's client, which crane is made of, with a registry. The
// registry requires a token from a token service, and has its blobs on another host.
type registryLane struct {
	*lane
	host   string // of the registry
	tokens atomic.Int64
	// trouble returns true if it has responded in place of the registry.
	trouble func(http.ResponseWriter, *http.Request) bool
	options []crane.Option
	remote  []remote.Option
}

// backoff is the delay between the client's attempts, and their number.
var backoff = remote.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 4}

// newRegistryLane starts the servers.
func newRegistryLane(l *lane) *registryLane {
	l.Masks = append(l.Masks, regexp.MustCompile(`/blobs/uploads/[0-9]+`))
	r := &registryLane{lane: l, trouble: func(http.ResponseWriter, *http.Request) bool { return false }}
	blobs := &blobStore{BlobHandler: registry.NewInMemoryBlobHandler()}
	blobs.url = strings.Replace(l.Serve(http.HandlerFunc(blobs.serve)), "127.0.0.1", "localhost", 1)
	server := registry.New(registry.WithBlobHandler(blobs), registry.WithReferrersSupport(true),
		registry.Logger(log.New(io.Discard, "", 0)))
	var url string
	url = l.Serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
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
	r.options = []crane.Option{crane.WithTransport(l.Transport), crane.WithAuth(auth),
		crane.WithContext(l.Context())}
	r.remote = []remote.Option{remote.WithTransport(l.Transport), remote.WithAuth(auth),
		remote.WithContext(l.Context()), remote.WithRetryBackoff(backoff)}
	return r
}

// token is the token service.
func (r *registryLane) token(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	if user != "user" || password != "secret" {
		w.WriteHeader(401)
		io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
		return
	}
	r.tokens.Add(1)
	fmt.Fprintf(w, `{"token":"token-%s"}`, strings.Join(req.URL.Query()["scope"], "+"))
}

// ref returns a reference to an image in the registry.
func (r *registryLane) ref(s string) name.Reference {
	ref, err := name.ParseReference(r.host + "/" + s)
	r.Must(err)
	return ref
}

// image returns an image that only depends on the seed.
func (r *registryLane) image(seed int64) v1.Image {
	image, err := random.Image(300_000, 4, random.WithSource(rand.NewSource(seed)))
	r.Must(err)
	return image
}

// reportImage pulls every byte of an image and verifies all digests.
func (r *registryLane) reportImage(what string, image v1.Image) {
	r.Helper()
	r.Must(validate.Image(image))
	digest, err := image.Digest()
	r.Must(err)
	layers, err := image.Layers()
	r.Must(err)
	r.Report("%s: %s", what, digest)
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		r.Must(err)
		digest, n, err := lanes.Sum(content)
		r.Must(err)
		r.Must(content.Close())
		r.Report("\t%d octets %s", n, digest)
	}
}

// A blobStore redirects clients to another host for the content of a blob, as the registries of
// cloud providers do.
type blobStore struct {
	registry.BlobHandler
	url string
}

// Get redirects to the other host.
func (b *blobStore) Get(_ context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	return nil, registry.RedirectError{Location: fmt.Sprintf("%s/%s?digest=%s", b.url, repo, h), Code: 307}
}

// Stat returns the size of a blob.
func (b *blobStore) Stat(ctx context.Context, repo string, h v1.Hash) (int64, error) {
	return b.BlobHandler.(registry.BlobStatHandler).Stat(ctx, repo, h)
}

// Put stores a blob.
func (b *blobStore) Put(ctx context.Context, repo string, h v1.Hash, content io.ReadCloser) error {
	return b.BlobHandler.(registry.BlobPutHandler).Put(ctx, repo, h, content)
}

// Delete deletes a blob.
func (b *blobStore) Delete(ctx context.Context, repo string, h v1.Hash) error {
	return b.BlobHandler.(registry.BlobDeleteHandler).Delete(ctx, repo, h)
}

// serve is the other host. It sends the content of a blob.
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

// pushAndPull pushes, copies and pulls images.
func pushAndPull(l *lane) {
	r := newRegistryLane(l)
	l.Must(crane.Push(r.image(1), r.host+"/some/app:v1", r.options...))
	l.Must(crane.Push(r.image(2), r.host+"/some/app:v2", r.options...))
	l.Must(crane.Tag(r.host+"/some/app:v2", "latest", r.options...))

	digest, err := crane.Digest(r.host+"/some/app:latest", r.options...)
	l.Must(err)
	l.Report("digest %s", digest)
	manifest, err := crane.Manifest(r.host+"/some/app:v1", r.options...)
	l.Must(err)
	l.Report("manifest %s", manifest)
	head, err := crane.Head(r.host+"/some/app:v1", r.options...)
	l.Must(err)
	l.Report("head %+v", *head)
	config, err := crane.Config(r.host+"/some/app:v1", r.options...)
	l.Must(err)
	l.Report("config %s", config)

	image, err := crane.Pull(r.host+"/some/app:v1", r.options...)
	l.Must(err)
	r.reportImage("pulled", image)

	l.Must(crane.Copy(r.host+"/some/app:v1", r.host+"/other/app:copied", r.options...)) // mounts the blobs
	image, err = crane.Pull(r.host+"/other/app:copied", r.options...)
	l.Must(err)
	r.reportImage("copied", image)

	tags, err := crane.ListTags(r.host+"/some/app", r.options...)
	l.Must(err)
	repositories, err := crane.Catalog(r.host, r.options...)
	l.Must(err)
	slices.Sort(repositories)
	l.Report("tags %q in %q", tags, repositories)

	l.Must(crane.Delete(r.host+"/some/app:v1", r.options...))
	_, err = crane.Digest(r.host+"/some/app:v1", r.options...)
	r.refusal("deleted", err)
	l.Report("%d tokens", r.tokens.Load())
}

func TestRegistryIndexAndReferrers(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		index, err := random.Index(100_000, 2, 6, random.WithSource(rand.NewSource(3)))
		l.Must(err)
		options := append(slices.Clone(r.remote), remote.WithJobs(8))
		l.Must(remote.WriteIndex(r.ref("multi/arch:all"), index, options...))
		pulled, err := remote.Index(r.ref("multi/arch:all"), options...)
		l.Must(err)
		l.Must(validate.Index(pulled))
		digest, err := pulled.Digest()
		l.Must(err)
		l.Report("index %s", digest)

		l.Must(remote.MultiWrite(map[name.Reference]remote.Taggable{
			r.ref("many:one"):   r.image(4),
			r.ref("many:two"):   r.image(5),
			r.ref("many:three"): r.image(6),
		}, options...))
		repository, err := name.NewRepository(r.host + "/many")
		l.Must(err)
		tags, err := remote.List(repository, append(slices.Clone(options), remote.WithPageSize(1))...)
		l.Must(err)
		l.Report("tags %q", tags)

		subject, err := remote.Get(r.ref("many:one"), options...)
		l.Must(err)
		signature := mutate.Subject(r.image(7), subject.Descriptor).(v1.Image)
		l.Must(remote.Write(r.ref("many:signature"), signature, options...))
		referrers, err := remote.Referrers(repository.Digest(subject.Digest.String()), options...)
		l.Must(err)
		list, err := referrers.IndexManifest()
		l.Must(err)
		l.Report("referrers %+v", list.Manifests)
	})
}

// TestRegistryStreamedLayer pushes a layer whose length is unknown until it has been sent.
func TestRegistryStreamedLayer(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		source, err := random.Layer(3<<20, types.DockerLayer, random.WithSource(rand.NewSource(8)))
		l.Must(err)
		repository, err := name.NewRepository(r.host + "/streamed")
		l.Must(err)
		var layer *stream.Layer
		for try := 0; ; try++ {
			content, err := source.Uncompressed()
			l.Must(err)
			layer = stream.NewLayer(content)
			err = remote.WriteLayer(repository, layer, r.remote...)
			if !errors.Is(err, stream.ErrNotComputed) || try == 10 || !l.Standard {
				l.Must(err)
				break
			}
			// net/http returned before it had closed the body: golang/go#81445.
			l.Loose = true
		}
		image, err := mutate.AppendLayers(empty.Image, layer)
		l.Must(err)
		l.Must(remote.Write(r.ref("streamed:v1"), image, r.remote...))
		pulled, err := remote.Image(r.ref("streamed:v1"), r.remote...)
		l.Must(err)
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
	r.Report("%s: status %d, %v, temporary %v, of %s %s", what, e.StatusCode, e.Errors, e.Temporary(),
		e.Request.Method, e.Request.URL)
}

func TestRegistryTrouble(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		l.Must(remote.Write(r.ref("app:v1"), r.image(1), r.remote...))

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
			_, err = remote.Image(r.ref("app:v1"),
				append(slices.Clone(r.remote), remote.WithRetryStatusCodes(429, 500, 503))...)
			if err != nil {
				r.refusal(fmt.Sprintf("twice %d", status), err)
			}
			l.Report("twice %d: %d attempts not made", status, left.Load())
		}

		gone, err := name.ParseReference(strings.TrimPrefix(l.Refused(), "https://") + "/app:v1")
		l.Must(err)
		_, err = remote.Image(gone, r.remote...)
		l.Fails("refused", err)
	})
}

// TestRegistryBrokenOff uses a server that resets a stream, or closes the connection, in the middle
// of a blob or a manifest.
func TestRegistryBrokenOff(t *testing.T) {
	compare(t, func(l *lane) {
		r := newRegistryLane(l)
		l.Must(remote.Write(r.ref("app:v1"), r.image(1), r.remote...))
		r.trouble = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/blobs/") {
				return false
			}
			w.Write(make([]byte, 100_000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		image, err := remote.Image(r.ref("app:v1"), r.remote...)
		l.Must(err)
		layers, err := image.Layers()
		l.Must(err)
		content, err := layers[0].Compressed()
		l.Must(err)
		_, n, err := lanes.Sum(content)
		l.Fails(fmt.Sprintf("broken off after %d octets", n), err)
		content.Close()
	})
}

func TestRegistryCanceled(t *testing.T) {
	compare(t, func(l *lane) {
		l.Loose = true
		r := newRegistryLane(l)
		l.Must(remote.Write(r.ref("app:v1"), r.image(1), r.remote...))
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
			image, err := remote.Image(r.ref("app:v1"),
				append(slices.Clone(r.remote), remote.WithContext(ctx))...)
			l.Must(err)
			layers, err := image.Layers()
			l.Must(err)
			content, err := layers[0].Compressed()
			l.Must(err)
			_, err = io.CopyN(io.Discard, content, 100_000)
			l.Must(err)
			if name == "canceled" {
				cancel()
			}
			_, n, err := lanes.Sum(content)
			l.Fails(fmt.Sprintf("%s, and then %d octets", name, n), err)
			content.Close()
			cancel()
		}
	})
}
