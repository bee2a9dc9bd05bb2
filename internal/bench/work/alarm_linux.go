package work

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An alarm sleeps for short times. time.Sleep may return up to a millisecond late, because the
// runtime gives epoll_wait whole milliseconds; an alarm of Linux returns within microseconds.
type alarm struct {
	fd   int
	file *os.File // of fd: its Read waits in the runtime's poller
}

// newAlarm returns an alarm. The caller must close it.
func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &alarm{fd, os.NewFile(uintptr(fd), "timerfd")}, nil
}

// sleep returns after d.
func (a *alarm) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(a.fd, 0, &spec, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	var expirations [8]byte
	_, err := a.file.Read(expirations[:])
	return err
}

func (a *alarm) close() error { return a.file.Close() }
