package flowsim

import "gohyper.dev/hyper"

// A subject is a way to manage windows. name is its name in tables and plots.
type subject struct {
	name   string
	config hyper.Config
}

// subjects are the managers that the grid compares.
var subjects = []subject{
	{"AdaptiveWindow", hyper.Config{}},
	{"FixedWindow", hyper.Config{WindowManager: hyper.FixedWindow{}.New}},
	{"64 KiB", hyper.Config{WindowManager: hyper.ReadWindow{Stream: 65535, Connection: 65535}.New}},
	{"net/http", hyper.Config{WindowManager: static(4<<20, 4<<10, 1<<30+65535),
		InitialStreamWindow: 4 << 20}},
	{"ReadWindow", hyper.Config{WindowManager: hyper.ReadWindow{}.New, InitialStreamWindow: 1 << 20}},
}

// unlimited is the subject that the others are compared with. Its windows are never used up.
var unlimited = subject{"unlimited", hyper.Config{WindowManager: func(*hyper.Window) hyper.WindowManager {
	return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int { return 1<<31 - 1 - ev.Credit })
}, InitialStreamWindow: 1<<31 - 1}}

// static manages windows as net/http does. Windows have a fixed size. Once the bytes read reach
// step, the window is opened to its full size again.
func static(stream, step, connection int) hyper.WindowManagerFactory {
	return func(w *hyper.Window) hyper.WindowManager {
		size := stream
		if w.StreamID() == 0 {
			size = connection
		}
		return hyper.WindowManagerFunc(func(ev hyper.WindowEvent) int {
			if gap := size - ev.Credit - ev.Unread; gap >= step || ev.Kind == hyper.WindowOpened {
				return max(0, gap)
			}
			return 0
		})
	}
}
