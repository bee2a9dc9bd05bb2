package servertest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"gohyper.dev/hyper"
)

// A server that gets GOAWAY completes the requests that it has, and closes the connection.
func TestGoAwayAfterTheSecondRequest(t *testing.T) {
	ctx, conn := dial(t, nil)
	get(t, ctx, conn)
	second := post(t, ctx, conn)
	if err := conn.WriteFrame(ctx, hyper.GoAwayFrame(0, hyper.ErrCodeNo, "bye")); err != nil {
		t.Fatal("GOAWAY was not sent:", err)
	}
	second.CloseWrite()
	resp, err := second.Response(ctx)
	want200(t, "the request before GOAWAY", resp, err)
}

// Trailers with a pseudo-header field are malformed. Other requests go on.
func TestMalformedTrailers(t *testing.T) {
	ctx, conn := dial(t, nil)
	s, err := conn.Open(ctx, &hyper.Request{Unchecked: true, Header: header("POST")})
	if err != nil {
		t.Fatal("the request was not sent:", err)
	}
	s.SendTrailers(hyper.Header{{Name: ":path", Value: "/evil"}})
	resp, err := s.Response(ctx)
	wantRefusal(t, "trailers with :path", resp, err)
}

// A server sends no more than the window allows: here one byte at a time.
func TestWindowOfOneByte(t *testing.T) {
	var largest atomic.Int64
	oneByte := hyper.ReadWindow{Stream: 1}.New
	ctx, conn := dial(t, &hyper.Config{InitialStreamWindow: 1, WindowManager: oneByte, Wire: &hyper.Wire{
		OnFrame: func(_ *hyper.Conn, f hyper.Frame) {
			if f.Type == hyper.FrameData {
				largest.Store(max(largest.Load(), int64(len(f.Payload))))
			}
		}}})
	if get(t, ctx, conn); largest.Load() != 1 {
		t.Errorf("the largest DATA frame has %d bytes, want 1: the window is 1 byte", largest.Load())
	}
}

// A reset in the middle of a request ends that request only.
func TestRSTInTheMiddle(t *testing.T) {
	ctx, conn := dial(t, nil)
	s := post(t, ctx, conn)
	if _, err := s.Write([]byte("the first half")); err != nil {
		t.Fatal("the first half was not sent:", err)
	}
	s.Reset(hyper.ErrCodeCancel)
	get(t, ctx, conn)
}

// A window that exceeds 2^31-1 is a FLOW_CONTROL_ERROR of the connection.
func TestWindowThatIsTooLarge(t *testing.T) {
	ctx, conn := dial(t, nil)
	update := hyper.WindowUpdateFrame(0, 1<<31-1)
	if err := conn.WriteFrame(ctx, update, update); err != nil {
		t.Fatal("WINDOW_UPDATE was not sent:", err)
	}
	if err := end(ctx, conn); !errors.Is(err, hyper.ErrCodeFlowControl) {
		t.Errorf("the connection: %v; want that it ends with FLOW_CONTROL_ERROR", err)
	}
}

// A field block in eight frames is read as one. Servers have bounds: some allow no more than that.
func TestFieldBlockInEightFrames(t *testing.T) {
	ctx, conn := dial(t, nil)
	ones := slices.Repeat([]int{1}, 7)
	resp, err := conn.Do(ctx, &hyper.Request{Path: path, Framing: &hyper.Framing{Fragments: ones},
		Header: hyper.Header{{Name: "x-long", Value: strings.Repeat("|", 100)}}})
	want200(t, "a field block in eight frames", resp, err)
}

// A line feed in a value must not become another field.
func TestLineFeedInAValue(t *testing.T) {
	ctx, conn := dial(t, nil)
	h := append(header("GET"), hyper.Field{Name: "x", Value: "a\r\ntransfer-encoding: chunked"})
	resp, err := conn.Do(ctx, &hyper.Request{Unchecked: true, Header: h})
	wantRefusal(t, "a value with a line feed", resp, err)
}

// The ends of twenty requests arrive at once: a test for races in a handler.
func TestTwentyRequestsEndAtOnce(t *testing.T) {
	ctx, conn := dial(t, nil)
	streams := make([]*hyper.Stream, 20)
	for i := range streams {
		streams[i] = post(t, ctx, conn)
	}
	if err := conn.Batch(ctx, func() {
		for _, s := range streams {
			s.Write([]byte("last byte"))
			s.CloseWrite()
		}
	}); err != nil {
		t.Fatal("the ends of the requests were not sent:", err)
	}
	for i, s := range streams {
		resp, err := s.Response(ctx)
		want200(t, fmt.Sprintf("request %d of 20", i+1), resp, err)
	}
}
