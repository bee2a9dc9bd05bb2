package wire

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// A SettingID identifies a setting (§6.5.2).
type SettingID uint16

// The settings of RFC 9113, and of two other RFCs.
const (
	SettingHeaderTableSize       SettingID = 0x1
	SettingEnablePush            SettingID = 0x2
	SettingMaxConcurrentStreams  SettingID = 0x3
	SettingInitialWindowSize     SettingID = 0x4
	SettingMaxFrameSize          SettingID = 0x5
	SettingMaxHeaderListSize     SettingID = 0x6
	SettingEnableConnectProtocol SettingID = 0x8 // RFC 8441
	SettingNoRFC7540Priorities   SettingID = 0x9 // RFC 9218
)

// settingNames are the names of the settings, without the prefix SETTINGS_.
var settingNames = [...]string{
	SettingHeaderTableSize:       "HEADER_TABLE_SIZE",
	SettingEnablePush:            "ENABLE_PUSH",
	SettingMaxConcurrentStreams:  "MAX_CONCURRENT_STREAMS",
	SettingInitialWindowSize:     "INITIAL_WINDOW_SIZE",
	SettingMaxFrameSize:          "MAX_FRAME_SIZE",
	SettingMaxHeaderListSize:     "MAX_HEADER_LIST_SIZE",
	SettingEnableConnectProtocol: "ENABLE_CONNECT_PROTOCOL",
	SettingNoRFC7540Priorities:   "NO_RFC7540_PRIORITIES",
}

// String returns the setting's name, or SETTING_0x… for an unknown one.
func (id SettingID) String() string {
	if int(id) < len(settingNames) && settingNames[id] != "" {
		return settingNames[id]
	}
	return fmt.Sprintf("SETTING_0x%x", uint16(id))
}

// A Setting is one entry of a SETTINGS frame.
type Setting struct {
	ID    SettingID
	Value uint32
}

// Check returns an error if §6.5.2, RFC 8441 §3 or RFC 9218 §2.1 does not allow the value. Unknown
// settings pass.
func (s Setting) Check() error {
	code := ProtocolError
	var ok bool
	switch s.ID {
	case SettingEnablePush, SettingEnableConnectProtocol, SettingNoRFC7540Priorities:
		ok = s.Value <= 1
	case SettingInitialWindowSize:
		code, ok = FlowControlError, s.Value <= MaxWindow
	case SettingMaxFrameSize:
		ok = s.Value >= MinMaxFrameSize && s.Value <= MaxMaxFrameSize
	default:
		ok = true
	}
	if !ok {
		return &Error{Code: code, Reason: fmt.Sprintf("SETTINGS with %v=%d", s.ID, s.Value)}
	}
	return nil
}

// ParseSettings yields the entries of a SETTINGS payload in order.
func ParseSettings(p []byte) iter.Seq[Setting] {
	return func(yield func(Setting) bool) {
		for ; len(p) >= 6; p = p[6:] {
			s := Setting{ID: SettingID(binary.BigEndian.Uint16(p)), Value: binary.BigEndian.Uint32(p[2:])}
			if !yield(s) {
				return
			}
		}
	}
}
