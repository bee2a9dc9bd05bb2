package dropin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"gohyper.dev/hyper/internal/lanes"
)

// A blobServer has the block blobs of Azure Storage. Clients stage blocks, and a list of blocks
// makes the blob.
type blobServer struct {
	mu     sync.Mutex // guards the fields below
	staged map[string][]byte
	blobs  map[string][]byte
	puts   int               // number of blocks that were put
	before func(*blobServer) // is called for each block, and may panic
	cut    int64             // bytes after which a download is cut off; 0: never
	ranges int
}

// ServeHTTP serves the blobs.
func (s *blobServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("X-Ms-Version", r.Header.Get("X-Ms-Version"))
	w.Header().Set("Etag", `"0x1"`)
	w.Header().Set("Last-Modified", "Fri, 01 Jan 2021 00:00:00 GMT")
	name, query := r.URL.Path, r.URL.Query()
	switch {
	case r.Method == "PUT" && query.Get("comp") == "block":
		s.puts++
		if s.before != nil {
			s.before(s)
		}
		s.staged[name+query.Get("blockid")] = body
		w.WriteHeader(201)
	case r.Method == "PUT" && query.Get("comp") == "blocklist":
		s.commit(w, name, body)
	case r.Method == "PUT":
		s.blobs[name] = body
		w.WriteHeader(201)
	case s.blobs[name] == nil:
		w.Header().Set("X-Ms-Error-Code", "BlobNotFound")
		w.WriteHeader(404)
		io.WriteString(w,
			`<?xml version="1.0"?><Error>`+
				`<Code>BlobNotFound</Code><Message>It is not there.</Message></Error>`)
	case r.Method == "DELETE":
		delete(s.blobs, name)
		w.WriteHeader(202)
	case s.cut > 0 && r.Method == "GET":
		s.cutOff(w, r, s.blobs[name])
	default:
		s.ranges++
		if ms := r.Header.Get("X-Ms-Range"); ms != "" {
			r.Header.Set("Range", ms)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.blobs[name]))
	}
}

// commit makes a blob from a list of staged blocks.
func (s *blobServer) commit(w http.ResponseWriter, name string, body []byte) {
	var list struct{ Latest []string }
	if err := xml.Unmarshal(body, &list); err != nil {
		w.WriteHeader(400)
		return
	}
	var whole []byte
	for _, id := range list.Latest {
		block, ok := s.staged[name+id]
		if !ok {
			w.Header().Set("X-Ms-Error-Code", "InvalidBlockList")
			w.WriteHeader(400)
			return
		}
		whole = append(whole, block...)
	}
	s.blobs[name] = whole
	w.WriteHeader(201)
}

// cutOff sends a part of the body and resets the stream. Each request gets further than the one
// before.
func (s *blobServer) cutOff(w http.ResponseWriter, r *http.Request, whole []byte) {
	s.ranges++
	from := int64(0)
	if text, ok := strings.CutPrefix(r.Header.Get("X-Ms-Range"), "bytes="); ok {
		from, _ = strconv.ParseInt(strings.TrimSuffix(text, "-"), 10, 64)
		if before, _, ok := strings.Cut(text, "-"); ok {
			from, _ = strconv.ParseInt(before, 10, 64)
		}
	}
	rest := whole[from:]
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(whole)-1, len(whole)))
	w.WriteHeader(206)
	if int64(len(rest)) <= s.cut {
		w.Write(rest)
		return
	}
	w.Write(rest[:s.cut])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// azblob returns Azure's client for one blob.
func (l *lane) azblob(url string) *blockblob.Client {
	options := &blockblob.ClientOptions{}
	options.Transport = l.Client()
	options.Retry = policy.RetryOptions{MaxRetries: 3, RetryDelay: time.Millisecond,
		MaxRetryDelay: 10 * time.Millisecond}
	c, err := blockblob.NewClientWithNoCredential(url+"/container/blob", options)
	l.Must(err)
	return c
}

// azureRefusal reports an error by what users of the SDK can find out about it.
func (l *lane) azureRefusal(what string, err error) {
	l.Helper()
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		l.Report("%s: %d %s, not found %v", what, e.StatusCode, e.ErrorCode,
			bloberror.HasCode(err, bloberror.BlobNotFound))
		return
	}
	l.Fails(what, err)
}

// A nopCloser adds a Close method that does nothing.
type nopCloser struct{ io.ReadSeeker }

// Close does nothing.
func (nopCloser) Close() error { return nil }

func TestAzureBlobs(t *testing.T) { compareAll(t, useAzureBlobs) }

// useAzureBlobs uploads and downloads blobs.
func useAzureBlobs(l *lane) {
	l.Loose = true
	l.Vary = []string{"X-Ms-Client-Request-Id"}
	l.Masks = append(l.Masks, regexp.MustCompile(`blockid=[^& ]+`))
	server := &blobServer{staged: make(map[string][]byte), blobs: make(map[string][]byte)}
	url := l.Serve(server)
	c, ctx := l.azblob(url), l.Context()
	download := func(what string) {
		l.Helper()
		got, err := c.DownloadStream(ctx, nil)
		l.Must(err)
		body := got.NewRetryReader(ctx, &blob.RetryReaderOptions{MaxRetries: 5})
		digest, n, err := lanes.Sum(body)
		l.Must(err)
		l.Must(body.Close())
		l.Report("%s: %d bytes %s", what, n, digest)
	}
	_, err := c.Upload(ctx, nopCloser{bytes.NewReader(octets(1, 200_000))}, nil)
	l.Must(err)
	download("uploaded at once")

	// Several blocks are staged concurrently.
	options := &blockblob.UploadStreamOptions{BlockSize: 1 << 20, Concurrency: 4}
	_, err = c.UploadStream(ctx, bytes.NewReader(octets(2, 5<<20)), options)
	l.Must(err)
	download("a stream")
	l.Report("%d blocks", server.puts)
	buffer := make([]byte, 5<<20)
	n, err := c.DownloadBuffer(ctx, buffer, &blob.DownloadBufferOptions{BlockSize: 1 << 20, Concurrency: 4})
	l.Must(err)
	l.Report("a buffer of %d: %v", n, bytes.Equal(buffer, octets(2, 5<<20)))

	useFailingBlocks(l, server, url)

	// A download that is cut off continues at the same position.
	server.cut, server.ranges = 2<<20, 0
	download("cut off twice")
	l.Report("%d requests", server.ranges)
	server.cut = 0

	useAzureTrouble(l, server, c, url)
}

// useAzureTrouble makes requests that fail.
func useAzureTrouble(l *lane, server *blobServer, c *blockblob.Client, url string) {
	ctx := l.Context()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err := c.DownloadStream(ended, nil)
	l.azureRefusal("canceled", err)
	_, err = c.Delete(ctx, nil)
	l.Must(err)
	_, err = c.GetProperties(ctx, nil)
	l.azureRefusal("deleted", err)
	_, err = c.DownloadStream(ctx, nil)
	l.azureRefusal("deleted", err)
	_, err = l.azblob(l.Refused()).DownloadStream(ctx, nil)
	l.azureRefusal("refused", err)
	l.Try("stage", url, func(ctx context.Context, url string) (string, error) {
		server.mu.Lock()
		server.puts = 0
		server.mu.Unlock()
		_, err := l.azblob(url).StageBlock(ctx, "aWQ=", nopCloser{bytes.NewReader(octets(4, 300_000))}, nil)
		return fmt.Sprintf("seen %d times", server.puts), err
	})
}

// useFailingBlocks stages a block whose stream is reset a few times, or every time.
func useFailingBlocks(l *lane, server *blobServer, url string) {
	for _, times := range []int{2, 100} {
		server.puts = 0
		server.before = func(s *blobServer) {
			if s.puts <= times {
				panic(http.ErrAbortHandler)
			}
		}
		id := base64.StdEncoding.EncodeToString([]byte("block"))
		_, err := l.azblob(url).StageBlock(l.Context(), id, nopCloser{bytes.NewReader(octets(3, 300_000))},
			nil)
		if err != nil {
			l.azureRefusal("reset for good", err)
		}
		l.Report("reset %d times: %d attempts", times, server.puts)
	}
	server.before = nil
}
