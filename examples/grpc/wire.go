package hypergrpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"  // registers the compressor
	_ "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gohyper.dev/hyper"
)

// maxKept is the size of the largest buffer that is kept for later calls, in bytes.
const maxKept = 64 << 10

// codec decodes messages.
var codec = encoding.GetCodecV2("proto")

// prefix is the length of what comes before each message: whether it is compressed, and its length.
const prefix = 5

// appendMessage returns msg with its prefix, in the memory of b if there is room. A nil msg has no
// bytes.
func (s *stream) appendMessage(b []byte, msg any) (_ []byte, err error) {
	b = append(b[:0], 0, 0, 0, 0, 0)
	m, ok := msg.(proto.Message)
	if msg != nil && !ok {
		return b, errorf(codes.Internal, "%T is not a proto.Message", msg)
	}
	if b, err = (proto.MarshalOptions{}).MarshalAppend(b, m); err != nil {
		return b, errorf(codes.Internal, "marshal: %v", err)
	}
	if s.compressor != nil && len(b) > prefix {
		out := bytes.NewBuffer([]byte{1, 0, 0, 0, 0})
		w, err := s.compressor.Compress(out)
		if err == nil {
			_, err = w.Write(b[prefix:])
			err = cmp.Or(err, w.Close())
		}
		if err != nil {
			return b, errorf(codes.Internal, "compress: %v", err)
		}
		b = out.Bytes()
	}
	n := len(b) - prefix
	if n > s.maxSend {
		return b, errorf(codes.ResourceExhausted, "the message has %d bytes, more than %d", n, s.maxSend)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(n))
	return b, nil
}

// recv receives the next message into msg. The error is io.EOF if the response ended with the
// status OK instead.
func (s *stream) recv(resp *hyper.Response, msg any) error {
	if err := s.fill(resp, prefix); err != nil {
		return err
	}
	head := s.in.Bytes()
	flags, size := head[0], int64(binary.BigEndian.Uint32(head[1:]))
	switch {
	case flags > 1:
		return errorf(codes.Internal, "a message has the unknown flags %#x", flags)
	case size > int64(s.maxRecv):
		return errorf(codes.ResourceExhausted, "a message has %d bytes, more than %d", size, s.maxRecv)
	}
	if err := s.fill(resp, prefix+int(size)); err != nil {
		return err
	}
	p := s.in.Next(prefix + int(size))[prefix:]
	if flags == 1 {
		coding := encoding.GetCompressor(resp.Header.Get("grpc-encoding"))
		if coding == nil {
			return errorf(codes.Internal, "a message has no known grpc-encoding")
		}
		r, err := coding.Decompress(bytes.NewReader(p))
		if err == nil {
			p, err = io.ReadAll(io.LimitReader(r, int64(s.maxRecv)+1))
		}
		if c, ok := r.(io.Closer); ok {
			c.Close()
		}
		switch {
		case err != nil:
			return errorf(codes.Internal, "decompress: %v", err)
		case len(p) > s.maxRecv:
			return errorf(codes.ResourceExhausted, "a message has more than %d bytes", s.maxRecv)
		}
	}
	if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(p)}, msg); err != nil {
		return errorf(codes.Internal, "unmarshal: %v", err)
	}
	return nil
}

// fill reads until there are n bytes in s.in, which grows as they arrive. If the response ends
// before the first one, the error is as for endOf.
func (s *stream) fill(resp *hyper.Response, n int) error {
	for s.in.Len() < n {
		s.in.Grow(4 << 10)
		free := s.in.AvailableBuffer()
		got, err := resp.Stream().Read(free[:cap(free)])
		s.in.Write(free[:got])
		switch {
		case err == io.EOF && s.in.Len() == 0:
			return endOf(resp)
		case err == io.EOF:
			return statusOf(s.ctx, io.ErrUnexpectedEOF)
		case err != nil:
			return statusOf(s.ctx, err)
		}
	}
	return nil
}

// timeout returns d as grpc-timeout has it: at most eight digits and a unit, rounded up.
func timeout(d time.Duration) string {
	n, unit := max(d, 1), 0
	for ; n >= 1e8; unit++ {
		n = (n-1)/[...]time.Duration{1000, 1000, 1000, 60, 60}[unit] + 1
	}
	return strconv.FormatInt(int64(n), 10) + "numSMH"[unit:unit+1]
}

// reserved matches the names of fields that belong to gRPC or to HTTP, and so are no metadata.
var reserved = regexp.MustCompile("^(:.*|te|user-agent|content-type|grpc-(status|timeout|" +
	"message|message-type|encoding|accept-encoding))$")

// appendOutgoing appends the metadata of ctx. A value whose name ends in -bin is sent in base64.
func appendOutgoing(ctx context.Context, h hyper.Header) (hyper.Header, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	for _, name := range slices.Sorted(maps.Keys(md)) {
		for _, value := range md[name] {
			if strings.HasSuffix(name, "-bin") {
				value = base64.RawStdEncoding.EncodeToString([]byte(value))
			}
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
				return h, errorf(codes.Internal, "metadata %q is not printable ASCII", name)
			}
			if !reserved.MatchString(name) {
				h.Add(name, strings.Trim(value, " "))
			}
		}
	}
	return h, nil
}

// fieldsOf returns the first and the last fields of a response. There are no first ones if the
// response has nothing but the last ones (Trailers-Only). resp may be nil.
func fieldsOf(resp *hyper.Response) (header, trailer hyper.Header) {
	switch {
	case resp == nil:
		return nil, nil
	case resp.Header.Has("grpc-status"):
		return nil, resp.Header
	}
	return resp.Header, resp.Trailer()
}

// metadataIn returns the metadata of a field section, without binary values that are malformed. It
// is nil if there is no section.
func metadataIn(h hyper.Header) (md metadata.MD) {
	if h != nil {
		md = metadata.MD{}
	}
	for _, f := range h {
		switch {
		case reserved.MatchString(f.Name) && f.Name != "content-type":
		case !strings.HasSuffix(f.Name, "-bin"):
			md[f.Name] = append(md[f.Name], f.Value)
		default:
			for part := range strings.SplitSeq(f.Value, ",") {
				if value, err := decodeBinary(part); err == nil {
					md[f.Name] = append(md[f.Name], string(value))
				}
			}
		}
	}
	return md
}

// decodeBinary decodes base64 with or without padding.
func decodeBinary(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.Trim(s, " "), "="))
}

// codeOfHTTP are the codes of HTTP status codes (the specification's http-grpc-status-mapping.md).
var codeOfHTTP = map[int]codes.Code{
	400: codes.Internal, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.Unimplemented,
	429: codes.Unavailable, 502: codes.Unavailable, 503: codes.Unavailable, 504: codes.Unavailable,
}

// check returns an error if resp is not that of a gRPC server.
func check(resp *hyper.Response) error {
	kind := resp.Header.Get("content-type")
	if base, _, _ := strings.Cut(kind, ";"); base == "application/grpc" || base == "application/grpc+proto" {
		return nil
	}
	return errorf(cmp.Or(codeOfHTTP[resp.StatusCode], codes.Unknown),
		"the response is not gRPC: status %d, content-type %q", resp.StatusCode, kind)
}

// endOf returns the status of a call whose response was read to its end. io.EOF is OK.
func endOf(resp *hyper.Response) error {
	_, fields := fieldsOf(resp)
	if fields == nil {
		return errorf(codes.Internal, "the response ended without trailers")
	}
	code, err := strconv.ParseUint(fields.Get("grpc-status"), 10, 32)
	switch {
	case err != nil:
		return errorf(codes.Unknown, "malformed grpc-status: %v", err)
	case code == 0:
		return io.EOF
	}
	var s spb.Status
	b, err := decodeBinary(fields.Get("grpc-status-details-bin"))
	if err == nil && proto.Unmarshal(b, &s) == nil && s.Code == int32(code) {
		return status.FromProto(&s).Err()
	}
	message := fields.Get("grpc-message")
	if decoded, err := url.PathUnescape(message); err == nil {
		message = decoded
	}
	return status.Error(codes.Code(code), message)
}

// codeOfReset are the codes of RST_STREAM; others have codes.Internal.
var codeOfReset = map[hyper.ErrCode]codes.Code{
	hyper.ErrCodeCancel: codes.Canceled, hyper.ErrCodeFlowControl: codes.ResourceExhausted,
	hyper.ErrCodeEnhanceYourCalm:    codes.ResourceExhausted,
	hyper.ErrCodeInadequateSecurity: codes.PermissionDenied,
}

// errorf returns an error of this package.
func errorf(code codes.Code, format string, args ...any) error {
	return status.Errorf(code, "hypergrpc: "+format, args...)
}

// statusOf returns an error of hyper as one of package status.
func statusOf(ctx context.Context, err error) error {
	var reset *hyper.StreamError
	switch deadline, ok := ctx.Deadline(); {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case ok && !time.Now().Before(deadline): // the server's timer was faster
		return errorf(codes.DeadlineExceeded, "%v", err)
	case errors.Is(err, hyper.ErrClosed):
		return errClosed
	case hyper.Retryable(err):
		return errorf(codes.Unavailable, "the server did not process the call: %v", err)
	case errors.As(err, &reset) && reset.FromPeer && codeOfReset[reset.Code] != 0:
		return errorf(codeOfReset[reset.Code], "%v", err)
	case reset != nil, errors.As(err, new(*hyper.RequestError)), err == io.ErrUnexpectedEOF:
		return errorf(codes.Internal, "%v", err)
	}
	return errorf(codes.Unavailable, "%v", err) // the connection was lost
}
