//go:build !linux

package work

import "time"

// An alarm sleeps.
type alarm struct{}

// newAlarm returns an alarm.
func newAlarm() (*alarm, error) { return &alarm{}, nil }

// sleep returns after d, or up to a millisecond later.
func (*alarm) sleep(d time.Duration) error {
	time.Sleep(d)
	return nil
}

func (*alarm) close() error { return nil }
