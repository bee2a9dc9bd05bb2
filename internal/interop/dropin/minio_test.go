package dropin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"gohyper.dev/hyper/internal/lanes"
)

// A store is an S3 server, gofakes3's, that can be made to fail.
type store struct {
	url string
	// trouble returns true if it has responded in place of the server.
	trouble func(http.ResponseWriter, *http.Request) bool
}

// clock always shows the same time, so that the times in the server's responses are the same in
// every run.
var clock = gofakes3.FixedTimeSource(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))

// newStore starts a store.
func newStore(l *lane) *store {
	// Signatures contain the time.
	l.Vary = []string{"Authorization", "X-Amz-Date", "Amz-Sdk-Invocation-Id", "Amz-Sdk-Request"}
	l.Masks = append(l.Masks, regexp.MustCompile(`X-Amz-(Date|Signature)=[0-9A-Za-z]+`))
	s := &store{trouble: func(http.ResponseWriter, *http.Request) bool { return false }}
	server := gofakes3.New(s3mem.New(s3mem.WithTimeSource(clock), s3mem.WithVersionSeed(1)),
		gofakes3.WithTimeSource(clock), gofakes3.WithTimeSkewLimit(0),
		gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	s.url = l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.trouble(w, r) {
			server.ServeHTTP(w, r)
		}
	}))
	return s
}

// slowDown responds to the next n requests for a path with an S3 error.
func (s *store) slowDown(n int, status int, code string) (left *atomic.Int64) {
	left = new(atomic.Int64)
	left.Store(int64(n))
	s.trouble = func(w http.ResponseWriter, r *http.Request) bool {
		if left.Add(-1) < 0 {
			return false
		}
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(status)
		fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>not now</Message></Error>`, code)
		return true
	}
	return left
}

// stall sends the beginning of an object, and then nothing.
func (s *store) stall() {
	s.trouble = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "1000000")
		w.Header().Set("Etag", `"0123456789abcdef0123456789abcdef"`)
		w.Header().Set("Last-Modified", "Sun, 01 Nov 2026 12:00:00 GMT")
		if r.Method == "HEAD" {
			return true
		}
		w.Write(make([]byte, 100_000))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
}

// octets returns n bytes that only depend on the seed.
func octets(seed int64, n int) []byte {
	p := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(p)
	return p
}

// init shortens the delays between the client's attempts.
func init() { minio.DefaultRetryUnit, minio.DefaultRetryCap = 5*time.Millisecond, 20*time.Millisecond }

// minio returns MinIO's client for the store.
func (s *store) minio(l *lane) *minio.Client {
	addr, err := url.Parse(s.url)
	l.Must(err)
	client, err := minio.New(addr.Host, &minio.Options{
		Creds:      credentials.NewStaticV4("key", "secret", ""),
		Secure:     true,
		Transport:  l.Transport,
		Region:     "us-east-1",
		MaxRetries: 4,
	})
	l.Must(err)
	return client
}

// s3Refusal reports an error that the store explained.
func (l *lane) s3Refusal(what string, err error) {
	l.Helper()
	e, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		l.Errorf("%s: %T %v", what, err, err)
		return
	}
	l.Report("%s: status %d, %s %s, bucket %s, key %s", what, e.StatusCode, e.Code, e.Message, e.BucketName,
		e.Key)
}

func TestMinioObjects(t *testing.T) {
	compare(t, func(l *lane) {
		c, ctx := newStore(l).minio(l), l.Context()
		l.Must(c.MakeBucket(ctx, "bucket", minio.MakeBucketOptions{}))
		exists, err := c.BucketExists(ctx, "bucket")
		l.Must(err)
		l.Report("exists: %v", exists)

		for _, n := range []int{0, 1, 100_000, 3 << 20} {
			key := fmt.Sprintf("objects/%d", n)
			info, err := c.PutObject(ctx, "bucket", key, bytes.NewReader(octets(1, n)), int64(n),
				minio.PutObjectOptions{
					ContentType:  "application/x-noise",
					UserMetadata: map[string]string{"Colour": "blue"},
				})
			l.Must(err)
			l.Report("put %d octets as %s, tag %s", info.Size, info.Key, info.ETag)
			stat, err := c.StatObject(ctx, "bucket", key, minio.StatObjectOptions{})
			l.Must(err)
			l.Report("\t%d octets, %s, %s, %v", stat.Size, stat.ContentType, stat.ETag, stat.UserMetadata)
			object, err := c.GetObject(ctx, "bucket", key, minio.GetObjectOptions{})
			l.Must(err)
			digest, got, err := lanes.Sum(object)
			l.Must(err)
			l.Must(object.Close())
			l.Report("\tgot %d octets %s", got, digest)
		}

		// An upload in parts, whose length is unknown. Each part is a body of known length for the
		// transport.
		info, err := c.PutObject(ctx, "bucket", "parts", io.LimitReader(rand.New(rand.NewSource(2)), 12<<20),
			-1, minio.PutObjectOptions{PartSize: 5 << 20})
		l.Must(err)
		l.Report("put %d octets in parts, tag %s", info.Size, info.ETag)
		info, err = c.PutObject(ctx, "bucket", "parts-at-once",
			io.LimitReader(rand.New(rand.NewSource(3)), 12<<20), -1,
			minio.PutObjectOptions{PartSize: 5 << 20, ConcurrentStreamParts: true, NumThreads: 3})
		l.Must(err)
		l.Report("put %d octets in parts at once, tag %s", info.Size, info.ETag)

		object, err := c.GetObject(ctx, "bucket", "parts", minio.GetObjectOptions{})
		l.Must(err)
		p := make([]byte, 1000)
		for _, at := range []int64{10_000_000, 0, 5 << 20, 12<<20 - 1000} {
			n, err := object.ReadAt(p, at)
			l.Report("%d octets at %d: %x %v", n, at, p[:8], err)
		}
		_, err = object.Seek(-500, io.SeekEnd)
		l.Must(err)
		digest, n, err := lanes.Sum(object)
		l.Must(err)
		l.Report("the last %d octets: %s", n, digest)
		l.Must(object.Close())

		opts := minio.GetObjectOptions{}
		l.Must(opts.SetRange(100, 199_999))
		object, err = c.GetObject(ctx, "bucket", "parts", opts)
		l.Must(err)
		digest, n, err = lanes.Sum(object)
		l.Must(err)
		l.Must(object.Close())
		l.Report("range of %d octets: %s", n, digest)
	})
}

func TestMinioListsAndRemoves(t *testing.T) {
	compare(t, func(l *lane) {
		c, ctx := newStore(l).minio(l), l.Context()
		l.Must(c.MakeBucket(ctx, "bucket", minio.MakeBucketOptions{}))
		for i := range 25 {
			_, err := c.PutObject(ctx, "bucket", fmt.Sprintf("dir%d/file %02d ü+%%", i%3, i),
				strings.NewReader("x"), 1, minio.PutObjectOptions{})
			l.Must(err)
		}
		_, err := c.CopyObject(ctx, minio.CopyDestOptions{Bucket: "bucket", Object: "copy"},
			minio.CopySrcOptions{Bucket: "bucket", Object: "dir0/file 00 ü+%"})
		l.Must(err)
		for object := range c.ListObjects(ctx, "bucket",
			minio.ListObjectsOptions{Recursive: true, MaxKeys: 10}) {
			l.Must(object.Err)
			l.Report("%s, %d octets, %s", object.Key, object.Size, object.ETag)
		}
		for object := range c.ListObjects(ctx, "bucket", minio.ListObjectsOptions{}) {
			l.Must(object.Err)
			l.Report("top: %s", object.Key)
		}
		doomed := c.ListObjects(ctx, "bucket", minio.ListObjectsOptions{Prefix: "dir1/", Recursive: true})
		for failed := range c.RemoveObjects(ctx, "bucket", doomed, minio.RemoveObjectsOptions{}) {
			l.Must(failed.Err)
		}
		left := 0
		for range c.ListObjects(ctx, "bucket", minio.ListObjectsOptions{Recursive: true}) {
			left++
		}
		l.Report("%d left", left)
		l.s3Refusal("not empty", c.RemoveBucket(ctx, "bucket"))
	})
}

func TestMinioPresigned(t *testing.T) {
	compare(t, func(l *lane) {
		c, ctx := newStore(l).minio(l), l.Context()
		l.Must(c.MakeBucket(ctx, "bucket", minio.MakeBucketOptions{}))
		put, err := c.PresignedPutObject(ctx, "bucket", "given", time.Hour)
		l.Must(err)
		req, err := http.NewRequestWithContext(ctx, "PUT", put.String(), bytes.NewReader(octets(4, 200_000)))
		l.Must(err)
		resp, err := l.Client().Do(req)
		l.Must(err)
		resp.Body.Close()
		l.Report("PUT: %s", resp.Status)
		get, err := c.PresignedGetObject(ctx, "bucket", "given", time.Hour, nil)
		l.Must(err)
		resp, err = l.Client().Get(get.String())
		l.Must(err)
		digest, n, err := lanes.Sum(resp.Body)
		l.Must(err)
		resp.Body.Close()
		l.Report("GET: %s, %d octets %s", resp.Status, n, digest)
	})
}

func TestMinioTrouble(t *testing.T) {
	compare(t, func(l *lane) {
		l.Loose = true
		s := newStore(l)
		c, ctx := s.minio(l), l.Context()
		l.Must(c.MakeBucket(ctx, "bucket", minio.MakeBucketOptions{}))

		_, err := c.StatObject(ctx, "bucket", "missing", minio.StatObjectOptions{})
		l.s3Refusal("missing", err)
		object, err := c.GetObject(ctx, "bucket", "missing", minio.GetObjectOptions{})
		l.Must(err)
		_, err = io.Copy(io.Discard, object)
		l.s3Refusal("missing", err)

		for _, trouble := range []struct {
			status int
			code   string
		}{{503, "SlowDown"}, {429, "TooManyRequests"}, {500, "InternalError"}, {403, "AccessDenied"}} {
			left := s.slowDown(2, trouble.status, trouble.code)
			_, err = c.PutObject(ctx, "bucket", "hard to put", bytes.NewReader(octets(5, 300_000)), 300_000,
				minio.PutObjectOptions{})
			if err != nil {
				l.s3Refusal("hard to put", err)
			}
			l.Report("%s: %d attempts not made", trouble.code, left.Load())
		}
		left := s.slowDown(100, 503, "SlowDown")
		_, err = c.PutObject(ctx, "bucket", "never put", bytes.NewReader(octets(5, 300_000)), 300_000,
			minio.PutObjectOptions{})
		l.s3Refusal("never put", err)
		l.Report("given up after %d", 100-left.Load())

		s.stall()
		canceled, cancel := context.WithCancel(ctx)
		object, err = c.GetObject(canceled, "bucket", "stalls", minio.GetObjectOptions{})
		l.Must(err)
		_, err = io.ReadFull(object, make([]byte, 50_000))
		l.Must(err)
		cancel()
		_, err = io.Copy(io.Discard, object)
		l.Fails("canceled", err)
		object.Close()

		late, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		object, err = c.GetObject(late, "bucket", "stalls", minio.GetObjectOptions{})
		l.Must(err)
		_, err = io.Copy(io.Discard, object)
		l.Fails("deadline", err)
		object.Close()

		gone := &store{url: l.Refused()}
		_, err = gone.minio(l).StatObject(ctx, "bucket", "key", minio.StatObjectOptions{})
		l.Fails("refused", err)
	})
}
