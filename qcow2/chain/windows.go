package chain

import (
	"errors"
	"sync"
)

// maxWindows are kept, 128 KiB each: the readers of a chain and their planner are
// usually in the same one or two, and a lookup reads an L2 table of each image.
const maxWindows = 8

// windows caches those that were used last.
type windows struct {
	mu     sync.Mutex
	recent []*lookup // the one that was used last is the last
}

// lookup is a window; it is valid once it is ready.
type lookup struct {
	number int64
	ready  chan struct{}
	window *Window
	err    error
}

var errPanicked = errors.New("looking up a window of a chain panicked")

// get returns a window from the cache. Where it is not there, the first caller looks
// it up, and the others wait for that.
func (ws *windows) get(number int64, look func() (*Window, error)) (*Window, error) {
	l, isNew := ws.find(number)
	if isNew {
		l.err = errPanicked // stays if look does not return: others wait for it
		defer close(l.ready)
		if l.window, l.err = look(); l.err != nil {
			ws.forget(l)
		}
		return l.window, l.err
	}
	<-l.ready
	if l.err != nil { // each has an error of its own: who explains one changes it
		return look()
	}
	return l.window, nil
}

func (ws *windows) find(number int64) (l *lookup, isNew bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i, l := range ws.recent {
		if l.number == number {
			ws.recent = append(append(ws.recent[:i:i], ws.recent[i+1:]...), l)
			return l, false
		}
	}
	if len(ws.recent) == maxWindows {
		ws.recent = append(ws.recent[:0:0], ws.recent[1:]...)
	}
	l = &lookup{number: number, ready: make(chan struct{})}
	ws.recent = append(ws.recent, l)
	return l, true
}

// forget removes a window whose lookup failed: the next lookup may succeed.
func (ws *windows) forget(l *lookup) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i, other := range ws.recent {
		if other == l {
			ws.recent = append(ws.recent[:i:i], ws.recent[i+1:]...)
			return
		}
	}
}
