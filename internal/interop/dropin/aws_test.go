package dropin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"gohyper.dev/hyper/internal/lanes"
)

// aws returns the AWS SDK's client for the store.
func (s *store) aws(l *lane) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &s.url,
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("key", "secret", ""),
		HTTPClient:   l.Client(),
		UsePathStyle: true,
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = 3, 10*time.Millisecond
		}),
	})
}

// awsRefusal reports an error by what users of the SDK can find out about it.
func (l *lane) awsRefusal(what string, err error) {
	l.Helper()
	l.Logf("%s: %v", what, err)
	line := what + ":"
	if e, ok := errors.AsType[*smithy.OperationError](err); ok {
		line += " operation " + e.OperationName
	}
	if e, ok := errors.AsType[*retry.MaxAttemptsError](err); ok {
		line += fmt.Sprint(" attempts ", e.Attempt)
	}
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		line += fmt.Sprint(" status ", e.HTTPStatusCode())
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		line += fmt.Sprintf(" %s %v", e.ErrorCode(), e.ErrorFault())
	}
	if _, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		line += " not sent"
	}
	if _, ok := errors.AsType[*smithy.CanceledError](err); ok {
		line += " canceled by the caller"
	}
	if _, ok := errors.AsType[*types.NoSuchKey](err); ok {
		line += " NoSuchKey"
	}
	l.Report("%s; %s", line, lanes.Class(err))
}

func TestAWSObjects(t *testing.T) { compare(t, useAWSObjects) }

// useAWSObjects puts objects, and gets, lists and presigns them.
func useAWSObjects(l *lane) {
	c, ctx, bucket := newStore(l).aws(l), l.Context(), aws.String("bucket")
	_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket})
	l.Must(err)
	for _, n := range []int{0, 100_000, 3 << 20} {
		key := aws.String(fmt.Sprintf("objects/%07d", n))
		put, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: key,
			Body: bytes.NewReader(octets(1, n)), Metadata: map[string]string{"colour": "blue"}})
		l.Must(err)
		get, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: key})
		l.Must(err)
		digest, size, err := lanes.Sum(get.Body)
		l.Must(err)
		l.Must(get.Body.Close())
		l.Report("put as %s, got %d octets %s, tag %s, %v", *put.ETag, size, digest, *get.ETag, get.Metadata)
	}
	part, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("objects/3145728"),
		Range: aws.String("bytes=1000000-1999999")})
	l.Must(err)
	digest, size, err := lanes.Sum(part.Body)
	l.Must(err)
	l.Must(part.Body.Close())
	l.Report("range %s: %d octets %s", *part.ContentRange, size, digest)

	pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: bucket, MaxKeys: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		l.Must(err)
		for _, object := range page.Contents {
			l.Report("page of %d: %s %d", len(page.Contents), *object.Key, *object.Size)
		}
	}

	signed, err := s3.NewPresignClient(c).PresignGetObject(ctx,
		&s3.GetObjectInput{Bucket: bucket, Key: aws.String("objects/0100000")})
	l.Must(err)
	resp, err := l.Client().Get(signed.URL)
	l.Must(err)
	digest, size, err = lanes.Sum(resp.Body)
	l.Must(err)
	l.Must(resp.Body.Close())
	l.Report("presigned: %s, %d octets %s", resp.Status, size, digest)
}

// TestAWSTransferManager sends and fetches the parts of an object concurrently.
func TestAWSTransferManager(t *testing.T) {
	compare(t, func(l *lane) {
		c, ctx, bucket, key := newStore(l).aws(l), l.Context(), aws.String("bucket"), aws.String("parts")
		_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket})
		l.Must(err)
		manager := transfermanager.New(c, func(o *transfermanager.Options) {
			o.PartSizeBytes, o.MultipartUploadThreshold, o.Concurrency = 5<<20, 5<<20, 4
			o.GetObjectType = "range"
		})
		up, err := manager.UploadObject(ctx, &transfermanager.UploadObjectInput{Bucket: bucket, Key: key,
			Body: io.LimitReader(rand.New(rand.NewSource(2)), 17<<20)})
		l.Must(err)
		l.Report("up: tag %s, %d parts", *up.ETag, len(up.CompletedParts))
		down, err := manager.GetObject(ctx, &transfermanager.GetObjectInput{Bucket: bucket, Key: key})
		l.Must(err)
		digest, n, err := lanes.Sum(down.Body)
		l.Must(err)
		l.Report("down: %d octets %s", n, digest)
	})
}

func TestAWSTrouble(t *testing.T) {
	compare(t, func(l *lane) {
		l.Loose = true
		s := newStore(l)
		c, ctx, bucket, key := s.aws(l), l.Context(), aws.String("bucket"), aws.String("key")
		_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket})
		l.Must(err)
		_, err = c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: key})
		l.awsRefusal("missing", err)
		_, err = c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: key})
		l.awsRefusal("missing", err)
		for _, trouble := range []struct {
			status, times int
			code          string
		}{{503, 2, "SlowDown"}, {503, 10, "SlowDown"}, {429, 2, "TooManyRequests"}, {500, 2, "InternalError"},
			{403, 2, "AccessDenied"}} {
			left := s.slowDown(trouble.times, trouble.status, trouble.code)
			_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: key,
				Body: bytes.NewReader(octets(5, 300_000))})
			if err != nil {
				l.awsRefusal(trouble.code, err)
			}
			l.Report("%s: %d attempts", trouble.code, int64(trouble.times)-left.Load())
		}
		aborted := 0
		s.trouble = func(w http.ResponseWriter, r *http.Request) bool {
			aborted++
			panic(http.ErrAbortHandler)
		}
		_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: key,
			Body: bytes.NewReader(octets(5, 300_000))})
		l.awsRefusal("aborted", err)
		l.Report("aborted %d times", aborted)

		cuts := 0
		s.trouble = func(w http.ResponseWriter, r *http.Request) bool {
			if cuts++; cuts > 2 {
				return false
			}
			l.Cut(s.url)
			<-r.Context().Done()
			return true
		}
		_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: key,
			Body: bytes.NewReader(octets(5, 300_000))})
		l.Must(err)
		l.Report("put after %d cuts", cuts-1)

		s.stall()
		for _, end := range []string{"canceled", "deadline"} {
			ended, cancel := context.WithCancel(ctx)
			if end == "deadline" {
				ended, cancel = context.WithTimeout(ctx, time.Second)
			}
			get, err := c.GetObject(ended, &s3.GetObjectInput{Bucket: bucket, Key: key})
			l.Must(err)
			_, err = io.ReadFull(get.Body, make([]byte, 100_000))
			l.Must(err)
			if end == "canceled" {
				cancel()
			}
			_, err = io.Copy(io.Discard, get.Body)
			l.Fails(end, err)
			get.Body.Close()
			_, err = c.GetObject(ended, &s3.GetObjectInput{Bucket: bucket, Key: key})
			l.awsRefusal("after it", err)
			cancel()
		}
		gone := &store{url: l.Refused()}
		_, err = gone.aws(l).GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: key})
		l.awsRefusal("refused", err)
	})
}
