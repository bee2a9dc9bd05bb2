package conformance

import (
	"context"
	"fmt"
	"math"
	"time"

	"gohyper.dev/hyper"
	"gohyper.dev/hyper/internal/wire"
)

// get returns a function that sends a GET request.
func (l *lab) get(path string) func(ctx context.Context) (*hyper.Response, error) {
	return func(ctx context.Context) (*hyper.Response, error) { return l.conn.Get(ctx, path) }
}

// do returns a function that sends req.
func (l *lab) do(req *hyper.Request) func(context.Context) (*hyper.Response, error) {
	return func(ctx context.Context) (*hyper.Response, error) { return l.conn.Do(ctx, req) }
}

// settingsRows are about prefaces and SETTINGS.
var settingsRows = concat([]row{
	// RFC 9113 §3.4: the prefaces.
	{"9113 §3.4", "PrefaceComesFirst",
		"the client begins with its preface and SETTINGS, which may be followed by requests at once",
		beforeSettings, nil,
		func(l *lab) { l.at.finish(l); l.goesOn() }},
	{"9113 §3.4", "PrefaceWithoutARequest", "the preface is sent though there is no request yet",
		&moment{reach: nothing},
		func(l *lab) {
			l.Ignore(wire.WindowUpdate)
			l.WantPreface("unasked")
			set()(l)
			l.WriteSettingsAck()
		}, goesOn},
	{"9113 §3.4", "HTTP1InPlaceOfSettings", "an answer in HTTP/1.1 is a connection error", beforeSettings,
		func(l *lab) { l.WriteRaw([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")) },
		endsConn(hyper.ErrCodeProtocol)},
	{"9113 §3.4", "EmptySettingsAreAPreface", "the server's preface may be empty SETTINGS", beforeSettings,
		nil, accepted},

	// §6.5: the frame.
	{"9113 §6.5", "SettingsOnAStream", "SETTINGS on a stream are a connection error", waiting,
		frame(wire.Settings, 0, 1, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.5", "SettingsAckOnAStream",
		"SETTINGS on a stream are a connection error, an acknowledgment too", waiting,
		frame(wire.Settings, wire.Ack, 1, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.5", "FirstSettingsOnAStream",
		"SETTINGS on a stream are a connection error, as the first frame too", beforeSettings,
		frame(wire.Settings, 0, 1, ""), endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.5", "FirstSettingsOfAWrongSize",
		"SETTINGS of a wrong size are a connection error, as the first frame too", beforeSettings,
		frame(wire.Settings, 0, 0, "\x00\x03\x00\x00\x00"), endsConn(hyper.ErrCodeFrameSize)},
	{"9113 §6.5", "UnexpectedAckIsIgnored", "an acknowledgment of nothing has no rule; hyper ignores it",
		waiting, frame(wire.Settings, wire.Ack, 0, ""), accepted},

	// §6.5.2: values.
	{"9113 §6.5.2", "UnknownSettingsAreIgnored", "unknown settings are ignored", waiting,
		set(setting(0, 1), setting(7, math.MaxUint32), setting(0xffff, 0), setting(0x0a0a, 3)), accepted},
	{"9113 §6.5.2", "UnknownSettingsFirstAreIgnored", "unknown settings are ignored in the server's preface",
		beforeSettings,
		set(setting(0x2a2a, 42)), func(l *lab) { l.WriteSettingsAck(); finishWaiting(l); l.goesOn() }},
	{"9113 §6.5.2", "EnablePushOfZero", "a server may say ENABLE_PUSH=0", waiting,
		set(setting(wire.SettingEnablePush, 0)), accepted},
	{"9113 §6.5.2", "LargestValuesAreTaken", "the largest values that are legal are taken", waiting,
		set(setting(wire.SettingHeaderTableSize, math.MaxUint32),
			setting(wire.SettingMaxConcurrentStreams, math.MaxUint32),
			setting(wire.SettingInitialWindowSize, wire.MaxWindow),
			setting(wire.SettingMaxFrameSize, wire.MaxMaxFrameSize),
			setting(wire.SettingMaxHeaderListSize, math.MaxUint32)), accepted},
	{"9113 §6.5.2", "SmallestValuesAreTaken", "the smallest values that are legal are taken", waiting,
		set(setting(wire.SettingHeaderTableSize, 0), setting(wire.SettingInitialWindowSize, 0),
			setting(wire.SettingMaxFrameSize, wire.MinMaxFrameSize)), accepted},
	{"9113 §6.5.2", "ClientNeverEnablesPushUnasked", "a client that wants no push says ENABLE_PUSH=0",
		&moment{reach: nothing},
		func(l *lab) { wantAnnounced(l, wire.SettingEnablePush, 0) }, goesOn},
	{"9113 §6.5.2", "AnnouncedFrameSizeIsLegal",
		"what the client announces as MAX_FRAME_SIZE is within the limits",
		&moment{reach: nothing, cfg: hyper.Config{MaxFrameSize: wire.MaxMaxFrameSize}},
		func(l *lab) { wantAnnounced(l, wire.SettingMaxFrameSize, wire.MaxMaxFrameSize) }, goesOn},

	// §6.5.3: order and acknowledgment.
	{"9113 §6.5.3", "EachSettingsIsAcknowledged", "each SETTINGS is acknowledged, once", waiting,
		func(l *lab) {
			for range 3 {
				l.WriteSettings()
			}
			for range 3 {
				l.WantSettingsAck("one each")
			}
		}, accepted},
	{"9113 §6.5.3", "AckIsNotAcknowledged", "an acknowledgment is not acknowledged", waiting,
		all(frame(wire.Settings, wire.Ack, 0, ""), frame(wire.Settings, wire.Ack, 0, "")), accepted},
	{"9113 §6.5.3", "AcksAndPingsStayInOrder",
		"SETTINGS and PING are answered in the order in which they came", waiting,
		func(l *lab) {
			l.Batch(func() {
				l.WriteSettings()
				l.frame(wire.Ping, 0, 0, "first   ")
				l.WriteSettings(setting(0xff, 1))
				l.frame(wire.Ping, 0, 0, "second  ")
			})
			l.WantSettingsAck("first")
			l.wantPong("first   ")
			l.WantSettingsAck("second")
			l.wantPong("second  ")
		}, accepted},
	{"9113 §6.5.3", "LastValueOfAFrameCounts",
		"values are processed in the order in which they stand: the last one counts", uploading,
		func(l *lab) {
			set(setting(wire.SettingInitialWindowSize, 65535), setting(wire.SettingInitialWindowSize, 3))(l)
			go l.stream.Write([]byte("hello"))
			l.WantData("3 octets and no more", 1, 0, 3)
			l.WantIdle("the window is 3")
			l.WriteWindowUpdate(1, 100)
			l.WantData("the rest", 1, 0, 2)
		}, accepted},
	{"9113 §6.5.3", "IllegalValueBeforeALegalOne",
		"values are processed in the order in which they stand: an illegal one is not mended by a later one",
		waiting,
		func(l *lab) {
			l.WriteSettings(setting(wire.SettingMaxFrameSize, 1), setting(wire.SettingMaxFrameSize, 16384))
		}, endsConn(hyper.ErrCodeProtocol)},
	{"9113 §6.5.3", "ValuesAreInEffectWithTheAck",
		"once acknowledged, the values hold: MAX_FRAME_SIZE raised and lowered", uploading,
		func(l *lab) {
			set(setting(wire.SettingMaxFrameSize, 20000))(l)
			go l.stream.Write(make([]byte, 40000))
			l.WantData("as large as allowed", 1, 0, 20000)
			l.WantData("and again", 1, 0, 20000)
			set(setting(wire.SettingMaxFrameSize, 16384))(l)
			go l.stream.Write(make([]byte, 16385))
			l.WantData("smaller now", 1, 0, 16384)
			l.WantData("the rest", 1, 0, 1)
		}, accepted},
	{"9113 §6.5.3", "SettingsWithoutAnAck",
		"a peer that does not acknowledge in time may be left with SETTINGS_TIMEOUT",
		waiting.with(hyper.Config{SettingsTimeout: time.Second}).replace(
			func(l *lab) {
				l.Ignore(wire.WindowUpdate)
				l.caller = l.ask(l.get("/"))
				l.WantPreface("the client begins")
				l.WantHeaders("and asks", 1)
				l.WriteSettings()
				l.WantSettingsAck("acknowledged")
			}), nil, endsConn(hyper.ErrCodeSettingsTimeout)},

	// RFC 8441 §3: extended CONNECT.
	{"8441 §3", "EnableConnectProtocolTakenBack",
		"a server must not take ENABLE_CONNECT_PROTOCOL back: a connection error", waiting,
		func(l *lab) {
			set(setting(wire.SettingEnableConnectProtocol, 1))(l)
			l.WriteSettings(setting(wire.SettingEnableConnectProtocol, 0))
		}, endsConn(hyper.ErrCodeProtocol)},
	{"8441 §3", "EnableConnectProtocolTakenBackInOneFrame",
		"a server must not take ENABLE_CONNECT_PROTOCOL back, in one frame either", waiting,
		func(l *lab) {
			l.WriteSettings(setting(wire.SettingEnableConnectProtocol, 1),
				setting(wire.SettingEnableConnectProtocol, 0))
		}, endsConn(hyper.ErrCodeProtocol)},
	{"8441 §3", "EnableConnectProtocolTwice", "ENABLE_CONNECT_PROTOCOL=1 may be repeated", waiting,
		all(set(setting(wire.SettingEnableConnectProtocol, 1)),
			set(setting(wire.SettingEnableConnectProtocol, 1))), accepted},
	{"8441 §3", "EnableConnectProtocolOfZero", "ENABLE_CONNECT_PROTOCOL=0 says nothing where it was not 1",
		waiting, set(setting(wire.SettingEnableConnectProtocol, 0)), accepted},
	{"9218 §2.1", "NoRFC7540Priorities", "NO_RFC7540_PRIORITIES may be 1", waiting,
		set(setting(wire.SettingNoRFC7540Priorities, 1)), accepted},
}, notSettingsRows(), illegalValueRows())

// replace returns the moment reached in another way.
func (m *moment) replace(reach func(l *lab)) *moment {
	other := *m
	other.reach = reach
	return &other
}

// wantAnnounced requires that the client's first SETTINGS have this value.
func wantAnnounced(l *lab, id wire.SettingID, value uint32) {
	for _, s := range l.Handshake() {
		if s.ID == id && s.Value == value {
			return
		}
	}
	l.t.Errorf("%v=%d is not announced", id, value)
}

// notSettingsRows returns rows for servers that send another frame before SETTINGS, which is a
// connection error. RFC 9113 §3.4: the server's preface is SETTINGS and is the first frame that it
// sends.
func notSettingsRows() (rows []row) {
	for _, c := range []struct {
		name    string
		typ     wire.FrameType
		flags   wire.Flags
		stream  uint32
		payload string
	}{
		{"Headers", wire.Headers, wire.EndHeaders, 1, "\x88"},
		{"Data", wire.Data, 0, 1, "hello"},
		{"Ping", wire.Ping, 0, 0, "12345678"},
		{"SettingsAck", wire.Settings, wire.Ack, 0, ""},
		{"WindowUpdate", wire.WindowUpdate, 0, 0, "\x00\x00\x00\x01"},
		{"RSTStream", wire.RSTStream, 0, 1, "\x00\x00\x00\x08"},
		{"Priority", wire.Priority, 0, 1, "\x00\x00\x00\x00\x0f"},
		{"PriorityOfTwoOctets", wire.Priority, 0, 1, "\x00\x00"},
		{"PriorityOfTwoOctetsOnAnIdleStream", wire.Priority, 0, 7, "\x00\x00"},
		{"PushPromise", wire.PushPromise, wire.EndHeaders, 1, "\x00\x00\x00\x02"},
		{"Continuation", wire.Continuation, wire.EndHeaders, 1, "\x88"},
		{"UnknownFrame", unknownType, 0, 0, "extension"},
	} {
		rows = append(rows, row{"9113 §3.4", c.name + "InPlaceOfSettings",
			fmt.Sprintf("%s as the server's first frame is a connection error", c.name), beforeSettings,
			all(frame(c.typ, c.flags, c.stream, c.payload), frame(wire.Settings, 0, 0, "")),
			endsConn(hyper.ErrCodeProtocol)})
	}
	return rows
}

// illegalValueRows returns rows for values that a server must not send (RFC 9113 §6.5.2, RFC 8441
// §3, RFC 9218 §2.1).
func illegalValueRows() (rows []row) {
	for _, c := range []struct {
		section string
		id      wire.SettingID
		value   uint32
		code    hyper.ErrCode
	}{
		{"9113 §6.5.2", wire.SettingEnablePush, 1, hyper.ErrCodeProtocol},
		{"9113 §6.5.2", wire.SettingEnablePush, 2, hyper.ErrCodeProtocol},
		{"9113 §6.5.2", wire.SettingInitialWindowSize, 1 << 31, hyper.ErrCodeFlowControl},
		{"9113 §6.5.2", wire.SettingInitialWindowSize, math.MaxUint32, hyper.ErrCodeFlowControl},
		{"9113 §6.5.2", wire.SettingMaxFrameSize, 0, hyper.ErrCodeProtocol},
		{"9113 §6.5.2", wire.SettingMaxFrameSize, 16383, hyper.ErrCodeProtocol},
		{"9113 §6.5.2", wire.SettingMaxFrameSize, 1 << 24, hyper.ErrCodeProtocol},
		{"8441 §3", wire.SettingEnableConnectProtocol, 2, hyper.ErrCodeProtocol},
		{"9218 §2.1", wire.SettingNoRFC7540Priorities, 2, hyper.ErrCodeProtocol},
	} {
		bad := setting(c.id, c.value)
		name := fmt.Sprintf("%s_%d", c.id, c.value)
		rows = append(rows, row{c.section, name, fmt.Sprintf("%v=%d from a server is a connection error",
			c.id, c.value), waiting,
			func(l *lab) { l.WriteSettings(bad) }, endsConn(c.code)})
		rows = append(rows, row{c.section, name + "First",
			fmt.Sprintf("%v=%d from a server is a connection error, in its preface and behind legal values",
				c.id, c.value), beforeSettings,
			func(l *lab) { l.WriteSettings(setting(wire.SettingMaxConcurrentStreams, 100), bad) },
			endsConn(c.code)})
	}
	return rows
}
