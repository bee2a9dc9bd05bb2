// This file tests peers that are hostile in unusual ways, and many requests.

package hypertest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/h2test"
	"gohyper.dev/hyper/internal/syntax"
	"gohyper.dev/hyper/internal/wire"
)

// These are the attacks and weaknesses that matter to an HTTP/2 client, and the tests that show how
// hyper bears them. The bounds are: a connection under attack holds at most 4 MiB more than an idle
// one; 100,000 frames cost at most a second; no call outlives its context; and Close takes at most
// a quarter of a second.
//
//	 1  CONTINUATION without end          TestContinuationFloodEnds
//	 2  empty CONTINUATION                TestEmptyContinuationFloodEndsAfterAFewFrames
//	 3  size of a field list              TestHeaderListBeyondTheLimitEndsItsStream
//	 4  HPACK bomb                        TestHPACKBombHoldsNoMemory
//	 5  quadratic HPACK                   TestFragmentsOfOneByteAreReadInLinearTime,
//	                                      TestBlockOfManySmallFragmentsIsReadOnce
//	 6  HPACK integers                    TestHPACKThatMustNotBeSentEndsTheConnection,
//	                                      TestHPACKThatMustNotBeSentIsRefused +, FuzzBlock +
//	 7  Huffman EOS and padding           TestHPACKThatMustNotBeSentEndsTheConnection,
//	                                      TestHPACKThatMustNotBeSentIsRefused +
//	 8  empty fields                      TestEmptyFieldsAreNotFree *
//	 9  HEADER_TABLE_SIZE=2^32-1          TestHugeTableOfThePeerIsNotFilled *
//	10  state after a refused stream      TestCompressionStateIsKeptWhateverBecomesOfTheStream
//	11  secrets in the table              TestSecretsAreNeverIndexed +
//	12  SETTINGS flood                    TestAcknowledgmentsThatThePeerDoesNotReadAreBounded,
//	                                      TestFramesThatCarryNothingHaveABudget
//	13  huge SETTINGS                     TestThousandHugeSettingsAreTakenInASecond *,
//	                                      TestHugeSettingsCostLittle
//	14  PING flood                        TestAcknowledgmentsThatThePeerDoesNotReadAreBounded,
//	                                      TestFramesThatCarryNothingHaveABudget
//	15  peer that does not read           TestPeerThatNeverReadsCannotHoldTheConnection,
//	                                      TestStalledWriteDoesNotHoldCallsThatEnd
//	16  resets that the peer provokes     TestMalformedPromisesInAFlood *,
//	                                      TestProvokedResetsHaveABudget
//	17  rapid reset                       TestTenThousandCancelsStayWithinThePeersLimit,
//	                                      TestPromisedAndResetInAFlood *
//	18  resets made to be ours            as 16
//	19  empty DATA                        TestFramesThatCarryNothingHaveABudget,
//	                                      TestUnreadBytesInFramesOfTheirOwnHoldLittle *
//	20  windows of one byte               TestFramesThatCarryNothingHaveABudget,
//	                                      TestTinyWindowsAreUsedToTheByte
//	21  padding counts                    TestDataBeyondTheWindowIsRefusedToTheByte,
//	                                      TestPaddingComesBackAtOnce
//	22  PRIORITY                          TestFramesThatCarryNothingHaveABudget
//	23  window overflow                   TestWindowsAboveTheirLimitAreRefused
//	24  window overflow by SETTINGS       TestWindowsAboveTheirLimitAreRefused
//	25  INITIAL_WINDOW_SIZE over and over TestInitialWindowChangesCostTheSameWithManyStreams
//	26  MAX_FRAME_SIZE=0                  TestWrongSettingsEndTheConnection
//	27  oversize frame                    TestOversizeFrameIsRefusedAtItsHead,
//	                                      TestFrameAboveTheAnnouncedSizeEndsTheConnection
//	28  frames on idle streams            TestFrameOnAnIdleStreamEndsTheConnection *
//	29  smuggling, inbound                TestEachByteInEachPlaceOfAResponse *,
//	                                      TestMalformedResponseEndsOnlyItsStream
//	30  smuggling, outbound               TestEachByteInEachPlaceOfRequest
//	31  framing fields                    TestMalformedResponseEndsOnlyItsStream
//	32  content-length mismatch           TestBodyLongerThanItsContentLengthIsMalformed,
//	                                      TestBodyShorterThanItsContentLengthIsReadAndNeverEnds
//	33  truncation                        TestFaultsAtEveryByteAreReported
//	34  decompression bombs, chains       TestCompressedBombIsBounded,
//	                                      TestThousandCodingsAreRefused *
//	35  codings cut short, or followed    TestBodyCutAtAnyOffsetNeverEndsWell,
//	                                      TestBytesAfterTheEndAreAnError
//	36  slow reader                       TestUnreadBodyHoldsNoMoreThanItsWindow
//	37  unread streams block others       TestThousandCancelledBodiesDoNotStarveOthers *,
//	                                      TestUnreadStreamDoesNotStopOthers
//	38  closed streams are kept           TestRequestsAtOnceLeaveNothing *,
//	                                      TestMemoryFollowsTheOpenStreamsOnly
//	39  1xx flood                         TestInterimResponsesAreBounded
//	40  push flood                        TestPromisesBeyondTheirNumberAreRefused,
//	                                      TestPushIsOffUnlessAskedFor
//	41  push for others, or unsafe        TestPromiseOutsideTheRulesIsRefusedAlone
//	42  trailers                          TestEachByteInEachPlaceOfAResponse *,
//	                                      TestMisplacedPartOfAResponseIsMalformed
//	43  retry storm                       a Conn never sends anything twice
//	44  replay                            TestRetryable, TestRetryableRequestsAreNotWrittenAfterAll,
//	                                      and go run ./internal/soak
//	45  shutdown hang                     TestCloseUnderAStallAtEveryByte *,
//	                                      TestCloseDoesNotWaitForAPeerThatDoesNotRead
//	46  silent peer                       TestDeadPeerEndsEveryCallInTime
//	47  TLS                               TestServerWithoutHTTP2HandsTheConnectionOver,
//	                                      TestSuitesOfTLS12, TestOldTLSIsRefused,
//	                                      TestCertificateErrorsAreReachable
//	48  use for another host              a Conn has one peer; 421 is its caller's
//	49  caches keyed by name              TestDistinctNamesAreNotKept *
//	50  credit given back once            TestCreditIsConserved, and go test -race
//
// Tests with a star are in this file, and those with a plus in internal/fieldblock.

var reliabilityRequests = flag.Int("reliability.requests", 100_000,
	"requests of TestRequestsAtOnceLeaveNothing; a tenth of it with -race or -short")

// reliabilityLimit bounds the time of 100,000 frames. It is five times the second of the list
// above, because real time includes what else the machine does.
const reliabilityLimit = 5 * time.Second

// reliabilityCount returns n, or a tenth of it under the race detector or with -short.
func reliabilityCount(n int) int {
	if h2test.Race || testing.Short() {
		return n / 10
	}
	return n
}

// RFC 9113 §6.5.2: a field counts 32 bytes more than its name and value, so an empty field is not
// free.
func TestEmptyFieldsAreNotFree(t *testing.T) {
	for name, field := range map[string][]byte{
		"without a value":  {0x00, 1, 'x', 0},
		"with nothing":     {0x00, 0, 0},
		"into the table":   {0x40, 0, 0},
		"out of the table": {0xbe},
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, &hyper.Config{MaxHeaderListSize: 256 << 10}, reliabilityLimit, func(s *siege) {
				r := s.get(1)
				s.server.Write(h2test.RawFrame(wire.Headers, 0, 1, []byte{0x88, 0x40, 1, 'y', 0}))
				s.server.Write(h2test.RawFrame(wire.Continuation, 0, 1, bytes.Repeat(field, 50_000)))
				s.server.Write(h2test.RawFrame(wire.Continuation, wire.EndHeaders, 1,
					bytes.Repeat(field, 50_000)))
				s.peer.WantRSTStream("the list is too large", 1, wire.ProtocolError)
				r.WantErr(s.t, "too large a list")
				s.wantLife(3)
				s.wantMemory(maxGrowth)
			})
		})
	}
}

// reliabilityServer plays a server that sends settings, then responds to each request with 200 and
// the rest of a block.
func reliabilityServer(nc *h2test.Conn, block func() []byte, settings ...wire.Setting) {
	s := newFaultServer(nc)
	s.write(wire.AppendSettings(nil, settings...), wire.AppendSettingsAck(nil))
	for id := uint32(1); s.request(id); id += 2 {
		delete(s.seen, id)
		delete(s.ended, id)
		s.write(h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, id,
			append([]byte{0x88}, block()...)))
	}
}

// withReliabilityServer runs f in a bubble with a connection to a reliabilityServer.
func withReliabilityServer(t *testing.T, block func() []byte, f func(s *siege), settings ...wire.Setting) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		go reliabilityServer(server, block, settings...)
		conn, err := hyper.NewConn(context.Background(), client, nil)
		if err != nil {
			t.Fatal(err)
		}
		f(&siege{t: t, conn: conn})
		conn.Close()
		server.Close()
	})
}

func TestHugeTableOfThePeerIsNotFilled(t *testing.T) {
	requests := reliabilityCount(100_000)
	nothing := func() []byte { return nil }
	withReliabilityServer(t, nothing, func(s *siege) {
		if _, err := s.conn.WaitSettings(s.t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range requests {
			if i == 100 {
				s.idle = s.heap()
			}
			name := fmt.Sprintf("x-%d", i)
			resp, err := s.conn.Do(s.t.Context(), &hyper.Request{Header: hyper.Header{{Name: name,
				Value: strings.Repeat(name, 10)}}})
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
		}
		s.wantMemory(64 << 10)
	}, wire.Setting{ID: wire.SettingHeaderTableSize, Value: 1<<32 - 1})
}

func TestDistinctNamesAreNotKept(t *testing.T) {
	const each = 100
	responses := reliabilityCount(10_000)
	n := 0
	names := func() (block []byte) {
		for range each {
			n++
			name := fmt.Sprintf("x-%08d", n)
			block = append(append(block, 0x40, byte(len(name))), name...) // with indexing
			block = append(block, 1, 'v')
		}
		return block
	}
	withReliabilityServer(t, names, func(s *siege) {
		for i := range responses {
			if i == 100 {
				s.idle = s.heap()
			}
			resp, err := s.conn.Get(s.t.Context(), "/")
			if err != nil || len(resp.Header) != each || len(resp.Header.HTTP()) != each {
				t.Fatal(resp, err)
			}
		}
		s.wantMemory(64 << 10)
	})
}

func TestThousandHugeSettingsAreTakenInASecond(t *testing.T) {
	besiege(t, nil, reliabilityLimit, func(s *siege) {
		var huge []wire.Setting
		for i := range 2730 {
			huge = append(huge, wire.Setting{ID: wire.SettingID(i % 0x100), Value: wire.MinMaxFrameSize})
			if huge[i].ID == wire.SettingEnablePush || huge[i].ID == wire.SettingEnableConnectProtocol ||
				huge[i].ID == wire.SettingNoRFC7540Priorities {
				huge[i].Value = 0
			}
		}
		frame := wire.AppendSettings(nil, huge...)
		s.peer.Ignore(wire.Settings)
		s.flood(1000, frame)
		if err := s.conn.Err(); err != nil {
			s.t.Error(err)
		}
		s.wantMemory(maxGrowth)
		s.wantLife(1)
	})
}

// countResets takes the client's frames up to its GOAWAY, and returns how many of them were
// RST_STREAM.
func countResets(s *siege, code hyper.ErrCode) (resets int) {
	s.t.Helper()
	for {
		f, err := s.peer.Next()
		if err != nil {
			s.t.Fatal(err)
		}
		switch f.Type {
		case wire.RSTStream:
			resets++
		case wire.GoAway:
			if _, got, _ := wire.ParseGoAway(f.Payload); got != wire.ErrCode(code) {
				s.t.Error(f)
			}
			return resets
		}
	}
}

// promiseFlood writes n promises as fast as the client takes them. Each is followed by what behind
// returns.
func promiseFlood(s *siege, n int, block []byte, behind func(id uint32) []byte) {
	var batch []byte
	for i := 0; i < n && s.conn.Err() == nil; i++ {
		id := uint32(2 + 2*i)
		batch = append(batch, h2test.RawFrame(wire.PushPromise, wire.EndHeaders, 1,
			append(binary.BigEndian.AppendUint32(nil, id), block...))...)
		batch = append(batch, behind(id)...)
		if i%500 == 499 {
			s.server.Write(batch)
			batch = batch[:0]
		}
	}
	s.server.Write(batch)
	synctest.Wait()
}

func TestMalformedPromisesInAFlood(t *testing.T) {
	post := []byte{0x83} // :method: POST, and no other field
	besiege(t, &hyper.Config{Push: &hyper.PushPolicy{}}, reliabilityLimit, func(s *siege) {
		r := s.get(1)
		promiseFlood(s, 100_000, post, func(uint32) []byte { return nil })
		if n := countResets(s, hyper.ErrCodeEnhanceYourCalm); n > 1024 {
			t.Errorf("%d resets", n)
		}
		if err := r.WantErr(t, "the parent"); !errors.Is(err, hyper.ErrCodeEnhanceYourCalm) {
			t.Error(err)
		}
		s.wantMemory(maxGrowth)
	})
}

func TestPromisedAndResetInAFlood(t *testing.T) {
	get := append([]byte{0x82, 0x86, 0x84, 0x01, 5}, "own.x"...) // a correct promise
	for name, behind := range map[string]func(id uint32) []byte{
		"reset": func(id uint32) []byte { return wire.AppendRSTStream(nil, id, wire.Cancel) },
		"complete": func(id uint32) []byte {
			return h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, id, []byte{0x88})
		},
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.x"}, reliabilityLimit,
				func(s *siege) {
					r := s.get(1)
					promiseFlood(s, 100_000, get, behind)
					if n := countResets(s, hyper.ErrCodeEnhanceYourCalm); n > 1024 {
						t.Errorf("%d resets", n)
					}
					r.WantErr(t, "the parent")
					s.wantMemory(maxGrowth)
				})
		})
	}
}

func TestUnreadBytesInFramesOfTheirOwnHoldLittle(t *testing.T) {
	besiege(t, nil, reliabilityLimit, func(s *siege) {
		r := s.get(1)
		s.peer.WriteHeaders(1, 0, ":status: 200")
		resp := r.Want(t, "the response")
		const octets = 100_000
		frames := bytes.Repeat(wire.AppendData(nil, 1, 0, []byte{'x'}), octets/10)
		for range 10 {
			s.server.Write(frames)
			s.watch()
		}
		s.wantMemory(1 << 20)
		s.server.Write(wire.AppendData(nil, 1, wire.EndStream, nil))
		h2test.WantBody(t, "they are all there", resp.Body, strings.Repeat("x", octets))
	})
}

// RFC 9113 §5.1: any frame but HEADERS or PRIORITY on an idle stream is a connection error of type
// PROTOCOL_ERROR. HEADERS are an error, too, because a server cannot open a stream with them.
func TestFrameOnAnIdleStreamEndsTheConnection(t *testing.T) {
	for _, stream := range []uint32{2, 3, 99, 1 << 20, wire.MaxStreamID} {
		for name, frame := range map[string][]byte{
			"DATA":          wire.AppendData(nil, stream, 0, []byte("x")),
			"empty DATA":    wire.AppendData(nil, stream, wire.EndStream, nil),
			"HEADERS":       h2test.RawFrame(wire.Headers, wire.EndHeaders, stream, []byte{0x88}),
			"RST_STREAM":    wire.AppendRSTStream(nil, stream, wire.Cancel),
			"WINDOW_UPDATE": wire.AppendWindowUpdate(nil, stream, 1000),
			"PUSH_PROMISE": h2test.RawFrame(wire.PushPromise, wire.EndHeaders, stream,
				[]byte{0, 0, 0, 8, 0x82}),
		} {
			t.Run(fmt.Sprintf("%s on %d", name, stream), func(t *testing.T) {
				besiege(t, &hyper.Config{Push: &hyper.PushPolicy{}}, reliabilityLimit, func(s *siege) {
					r := s.get(1)
					s.server.Write(frame)
					s.wantEnd(hyper.ErrCodeProtocol, r)
				})
			})
		}
	}
}

// RFC 9113 §8.2.1, RFC 9110 §5.5: a byte that is not allowed in a field name or value never reaches
// the caller, wherever in a response it is.
func TestEachByteInEachPlaceOfAResponse(t *testing.T) {
	// RFC 9110 §5.6.2 allows these in a token. RFC 9113 §8.2 forbids upper case.
	inName := func(c byte) bool {
		return strings.IndexByte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", c) >= 0
	}
	inValue := func(c byte) bool { return (c >= ' ' || c == '\t') && c != 0x7f }
	atEnd := func(c byte) bool { return inValue(c) && c != ' ' && c != '\t' }
	for _, place := range []struct {
		name  string
		field func(c string) hyper.Field
		legal func(c byte) bool
	}{
		{"name", func(c string) hyper.Field { return hyper.Field{Name: c, Value: "v"} }, inName},
		{"beginning of a name", func(c string) hyper.Field { return hyper.Field{Name: c + "x", Value: "v"} },
			inName},
		{"middle of a name", func(c string) hyper.Field {
			return hyper.Field{Name: "x" + c + "x",
				Value: "v"}
		}, inName},
		{"end of a name", func(c string) hyper.Field { return hyper.Field{Name: "x" + c, Value: "v"} },
			inName},
		{"value", func(c string) hyper.Field { return hyper.Field{Name: "x", Value: c} }, atEnd},
		{"beginning of a value", func(c string) hyper.Field { return hyper.Field{Name: "x", Value: c + "v"} },
			atEnd},
		{"middle of a value", func(c string) hyper.Field {
			return hyper.Field{Name: "x",
				Value: "v" + c + "v"}
		},
			inValue},
		{"end of a value", func(c string) hyper.Field { return hyper.Field{Name: "x", Value: "v" + c} },
			atEnd},
		{"status", func(c string) hyper.Field { return hyper.Field{Name: ":status", Value: "20" + c} },
			func(c byte) bool { return '0' <= c && c <= '9' }},
	} {
		for _, trailer := range []bool{false, true} {
			if trailer && place.name == "status" {
				continue
			}
			t.Run(fmt.Sprintf("%s, trailer %v", place.name, trailer), func(t *testing.T) {
				besiege(t, nil, reliabilityLimit, func(s *siege) {
					s.peer.AutoPing()
					for c := range 256 {
						octet := octetInResponse{field: place.field(string([]byte{byte(c)})),
							legal: place.legal(byte(c)), trailer: trailer}
						octet.exchange(s, uint32(1+2*c))
					}
				})
			})
		}
	}
}

// An octetInResponse is one field of a response, in its header or its trailer.
type octetInResponse struct {
	field   hyper.Field
	legal   bool
	trailer bool
}

func (o octetInResponse) exchange(s *siege, id uint32) {
	s.t.Helper()
	block := slices.Concat([]byte{0x00, byte(len(o.field.Name))}, []byte(o.field.Name),
		[]byte{byte(len(o.field.Value))}, []byte(o.field.Value))
	r := s.get(id)
	got := hyper.Header(nil)
	switch {
	case o.trailer:
		s.server.Write(h2test.RawFrame(wire.Headers, wire.EndHeaders, id, []byte{0x88}))
		resp := r.Want(s.t, "the response")
		s.server.Write(h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, id, block))
		synctest.Wait() // the trailer has arrived
		if _, r.Err = io.ReadAll(resp.Body); r.Err == nil {
			got = resp.Trailer()
		}
	case syntax.IsPseudo(o.field.Name) && len(o.field.Name) > 1:
		s.server.Write(h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, id, block))
	default:
		s.server.Write(h2test.RawFrame(wire.Headers, wire.EndHeaders|wire.EndStream, id,
			append([]byte{0x88}, block...)))
	}
	if <-r.Done; r.Err == nil && !o.trailer {
		if got = r.Value.Header; o.field.Name == ":status" {
			got = hyper.Header{{Name: ":status", Value: fmt.Sprint(r.Value.StatusCode)}}
		}
	}
	switch {
	case o.legal:
		if r.Err != nil || len(got) != 1 || got[0] != o.field {
			s.t.Errorf("%+q: %v, %v", o.field.Name+": "+o.field.Value, got, r.Err)
		}
	case !errors.Is(r.Err, hyper.ErrCodeProtocol) || !errors.As(r.Err, new(*hyper.MalformedError)):
		s.t.Errorf("%+q: %v, %v", o.field.Name+": "+o.field.Value, got, r.Err)
	default:
		s.peer.WantRSTStream(fmt.Sprintf("%+q", o.field.Name+": "+o.field.Value), id, wire.ProtocolError)
	}
}

func TestThousandCodingsAreRefused(t *testing.T) {
	for name, fields := range map[string][]string{
		"in one field":   {"content-encoding: " + strings.Repeat("gzip, ", 999) + "gzip"},
		"in many fields": slices.Repeat([]string{"content-encoding: gzip"}, 1000),
	} {
		t.Run(name, func(t *testing.T) {
			besiege(t, nil, reliabilityLimit, func(s *siege) {
				r := s.get(1)
				s.peer.WriteHeaders(1, 0, append([]string{":status: 200"}, fields...)...)
				s.peer.WriteData(1, wire.EndStream, h2test.Gzip(nil))
				var limit *hyper.DecodeLimitError
				if _, err := io.ReadAll(r.Want(t, "the response").Body); !errors.As(err, &limit) ||
					limit.Limit != "codings" && limit.Limit != "elements" {
					t.Error(err)
				}
				s.wantMemory(maxGrowth)
			})
		})
	}
}

// golang/go#28204, #54185: the credit of bodies that are not read must be returned when their
// streams end.
func TestThousandCancelledBodiesDoNotStarveOthers(t *testing.T) {
	const each, window = 64 << 10, 4 << 20 // 1,000 bodies are as large as 16 windows
	cfg := &hyper.Config{WindowManager: hyper.ReadWindow{Stream: 1 << 20, Connection: window}.New,
		InitialStreamWindow: each}
	besiege(t, cfg, reliabilityLimit, func(s *siege) {
		s.peer.AutoPing()
		send := func(id uint32, n int) {
			for n > 0 {
				synctest.Wait()
				part := min(n, 16<<10, s.peer.Credit(id), s.peer.Credit(0))
				if part <= 0 {
					s.t.Fatalf("stream %d starves: its window is %d, the connection's %d", id,
						s.peer.Credit(id), s.peer.Credit(0))
				}
				s.peer.WriteData(id, 0, make([]byte, part))
				n -= part
			}
			synctest.Wait()
		}
		id := uint32(1)
		for range 1000 {
			r := s.get(id)
			s.peer.WriteHeaders(id, 0, ":status: 200")
			resp := r.Want(s.t, "the response")
			send(id, each)
			resp.Body.Close()
			s.peer.WantRSTStream("closed unread", id, wire.Cancel)
			id += 2
		}
		s.wantMemory(maxGrowth)
		r := s.get(id)
		s.peer.WriteHeaders(id, 0, ":status: 200")
		body := r.Want(s.t, "the last one").Body
		read := make(chan int64)
		go func() {
			n, _ := io.Copy(io.Discard, body)
			read <- n
		}()
		send(id, 1<<20)
		s.peer.WriteData(id, wire.EndStream, nil)
		if n := <-read; n != 1<<20 {
			s.t.Errorf("%d octets", n)
		}
	})
}

// The number of requests can be set, for example with -reliability.requests 1000000.
func TestRequestsAtOnceLeaveNothing(t *testing.T) {
	requests, callers := reliabilityCount(*reliabilityRequests), 50
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe()
		go answerAll(server, 100)
		conn, err := hyper.NewConn(context.Background(), client, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &siege{t: t, conn: conn}
		run := func(n int) {
			var all sync.WaitGroup
			for i := range callers {
				all.Go(func() {
					for range n / callers {
						resp, err := conn.Do(context.Background(), &hyper.Request{})
						if err != nil {
							t.Error(err)
							return
						}
						if i%2 == 0 {
							io.Copy(io.Discard, resp.Body)
						}
						resp.Body.Close()
					}
				})
			}
			all.Wait()
			synctest.Wait()
		}
		run(requests / 10)
		s.idle = s.heap()
		for range 9 {
			run(requests / 10)
			s.watch()
		}
		s.wantMemory(maxGrowth / 16)
		if stats := conn.Stats(); stats.StreamsOpen != 0 || stats.Waiting != 0 {
			t.Errorf("%+v", stats)
		}
		conn.Close()
		server.Close()
	})
}

func TestCloseUnderAStallAtEveryByte(t *testing.T) {
	for _, x := range faultExchanges {
		t.Run(x.name, func(t *testing.T) {
			up, down, _ := x.run(t, "no fault", func(*h2test.Conn) {})
			for at := range down + 1 {
				closeStalled(t, x, fmt.Sprintf("reading stalls after %d octets", at),
					func(c *h2test.Conn) { c.BreakReadAfter(at, nil) })
			}
			for at := range up + 1 {
				closeStalled(t, x, fmt.Sprintf("writing stalls after %d octets", at),
					func(c *h2test.Conn) { c.BreakWriteAfter(at, nil) })
			}
		})
	}
}

// closeStalled plays x until all goroutines block, then closes the connection.
func closeStalled(t *testing.T, x faultExchange, fault string, inject func(c *h2test.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		client, nc := h2test.Pipe()
		inject(client)
		go func() {
			defer nc.Close()
			server := newFaultServer(nc)
			x.server(server)
			server.await(func() bool { return false })
		}()
		conn, err := hyper.NewConn(context.Background(), client, x.cfg)
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan struct{})
		go func() {
			defer close(told)
			x.client(context.Background(), conn)
		}()
		time.Sleep(corkDelay)
		synctest.Wait()
		start := time.Now()
		conn.Close()
		<-told
		if took := time.Since(start); took > 250*time.Millisecond {
			t.Errorf("%s: Close and the calls it ended took %v", fault, took)
		}
	})
}

// A manager that returns what was received, as python hyper's guide does, must be told of what
// arrived before it existed. Otherwise a window that is used up would never open again.
func TestManagerOfAClaimedPushGetsTheEventsBefore(t *testing.T) {
	stupid := func(*hyper.Window) hyper.WindowManager {
		return hyper.WindowManagerFunc(hyper.WindowEvent.Received)
	}
	synctest.Test(t, func(t *testing.T) {
		peer, conn := dialPeer(t, &hyper.Config{Push: &hyper.PushPolicy{}, Authority: "own.example",
			WindowManager: stupid})
		peer.Ignore(wire.WindowUpdate)
		got := getAsync(conn, "/")
		peer.WantHeaders("the parent", 1)
		h2test.Promise(peer, 2, "/pushed")
		peer.WriteHeaders(2, 0, ":status: 200")
		peer.WritePaddedData(2, 0, make([]byte, 10_000), 99)
		for peer.Credit(2) > 0 {
			peer.WriteData(2, 0, make([]byte, min(16384, peer.Credit(2))))
		}
		peer.WriteHeaders(1, wire.EndStream, ":status: 200")
		for push := range got.Want(t, "the parent").Pushes(t.Context()) {
			resp, err := push.Response(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := peer.Credit(2); n != wire.InitialWindow {
				t.Errorf("the window is %d, want all of it", n)
			}
			peer.WriteData(2, wire.EndStream, []byte("the end"))
			if body, err := io.ReadAll(resp.Body); err != nil || !bytes.HasSuffix(body, []byte("the end")) {
				t.Errorf("%d octets, %v", len(body), err)
			}
		}
	})
}
