package work

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// xNet returns a Transport of golang.org/x/net/http2 that is limited to one connection.
func (o *options) xNet() *http2.Transport {
	t := &http2.Transport{
		TLSClientConfig:            &tls.Config{InsecureSkipVerify: true},
		StrictMaxConcurrentStreams: true,
		MaxReadFrameSize:           uint32(o.frame),
	}
	if o.resume {
		t.TLSClientConfig.ClientSessionCache = sessions
	}
	return t
}

// grpcClient is a client of grpc-go. Its GET is a unary call: a POST of an empty message, whose
// response is a message of bytes. The server has to speak gRPC at the target's path.
type grpcClient struct{ conn *grpc.ClientConn }

// newGRPC returns a client of grpc-go.
func (o *options) newGRPC() (client, error) {
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(o.target.origin, "https://"),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		return nil, err
	}
	return grpcClient{conn}, nil
}

// get makes a unary call and returns the bytes of its response.
func (c grpcClient) get(t target) (io.ReadCloser, error) {
	var out wrapperspb.BytesValue
	if err := c.conn.Invoke(context.Background(), t.path, new(emptypb.Empty), &out); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(out.Value)), nil
}

// post is not for calls.
func (c grpcClient) post(target, io.Reader, int64) (io.ReadCloser, error) {
	return nil, errors.New("grpc-go sends no bodies without messages")
}

// close closes the connection.
func (c grpcClient) close() { c.conn.Close() }

// GRPCMessage returns the body of a gRPC response whose message has n bytes: the prefix, and the
// message.
func GRPCMessage(n int) []byte {
	message, err := proto.Marshal(wrapperspb.Bytes(make([]byte, n)))
	if err != nil {
		panic("BUG: " + err.Error()) // a message of bytes can be encoded
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) // 0: not compressed
	return append(body, message...)
}
