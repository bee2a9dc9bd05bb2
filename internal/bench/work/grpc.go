package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	connectgo "connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// message is what RPCs send and get.
type message = wrapperspb.BytesValue

// rpcs returns a client of connect-go for gRPC over the client of -impl, which has net/http's types.
func (o *options) rpcs() (*connectgo.Client[message, message], func(), error) {
	c, err := o.newClient()
	if err != nil {
		return nil, nil, err
	}
	t, ok := c.(*types)
	if !ok {
		c.close()
		return nil, nil, fmt.Errorf("gRPC needs net/http's types, which %s has not", o.impl)
	}
	return connectgo.NewClient[message, message](doer(t.roundTrip), o.target.origin+"/bench.Echo/Call",
		connectgo.WithGRPC()), c.close, nil
}

// A doer is a connectgo.HTTPClient.
type doer func(*http.Request) (*http.Response, error)

// Do implements connectgo.HTTPClient.
func (d doer) Do(req *http.Request) (*http.Response, error) { return d(req) }

// rpcSize is the size of a message on the wire, without its prefix. It includes the field's tag.
const rpcSize = 100

// newMessage returns a message of rpcSize bytes.
func newMessage() *message { return &message{Value: make([]byte, rpcSize-2)} }

// checkMessage checks the message that came back.
func checkMessage(m *message) (int64, error) {
	if len(m.Value) != rpcSize-2 {
		return 0, fmt.Errorf("a message of %d bytes", len(m.Value))
	}
	return rpcSize, nil
}

// unary measures unary RPCs through connect-go by many callers.
func unary(o *options) (figures, error) {
	return o.measureRPCs(func(rpc *connectgo.Client[message, message]) (func() (int64, error), func() error) {
		m := newMessage()
		return func() (int64, error) {
			resp, err := rpc.CallUnary(context.Background(), connectgo.NewRequest(m))
			if err != nil {
				return 0, err
			}
			return checkMessage(resp.Msg)
		}, func() error { return nil }
	})
}

// streaming measures messages of streams through connect-go. Each caller has a stream, and sends a
// message when the last one came back.
func streaming(o *options) (figures, error) {
	return o.measureRPCs(func(rpc *connectgo.Client[message, message]) (func() (int64, error), func() error) {
		stream, m := rpc.CallBidiStream(context.Background()), newMessage()
		one := func() (int64, error) {
			if err := stream.Send(m); err != nil {
				return 0, err
			}
			back, err := stream.Receive()
			if err != nil {
				return 0, err
			}
			return checkMessage(back)
		}
		end := func() error {
			if err := stream.CloseRequest(); err != nil {
				return err
			}
			if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("the end of a stream: %w", err)
			}
			return stream.CloseResponse()
		}
		return one, end
	})
}

// measureRPCs measures -n RPCs by -c callers. For each caller, open returns what does one, and what
// ends its work.
func (o *options) measureRPCs(
	open func(*connectgo.Client[message, message]) (one func() (int64, error), end func() error),
) (figures, error) {
	rpc, closeClient, err := o.rpcs()
	if err != nil {
		return nil, err
	}
	defer closeClient()
	rpcs := func(n, callers int) (int64, error) {
		var left atomic.Int64
		left.Store(int64(n))
		return together(callers, func() (octets int64, err error) {
			one, end := open(rpc)
			for left.Add(-1) >= 0 {
				n, err := one()
				if err != nil {
					return octets, err
				}
				octets += n
			}
			return octets, end()
		})
	}
	if _, err := rpcs(1, 1); err != nil {
		return nil, err
	}
	if _, err := rpcs(max(o.warm, o.callers), o.callers); err != nil {
		return nil, err
	}
	return o.cost(o.requests, func() (int64, error) { return rpcs(o.requests, o.callers) })
}
