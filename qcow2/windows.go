package qcow2

import (
	"errors"
	"sync"
)

// mostWindows are kept, 128 KiB each: the readers of a chain and who plans for
// them are mostly in the same one or two, and looking one up reads an L2 table of
// each image.
const mostWindows = 8

// windows are those that were looked up last.
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

// get returns a window that is here, or waits for who is looking it up.
func (ws *windows) get(number int64, look func() (*Window, error)) (*Window, error) {
	l, isNew := ws.find(number)
	if isNew {
		l.err = errPanicked // unless look returns: others wait
		defer close(l.ready)
		if l.window, l.err = look(); l.err != nil {
			ws.forget(l)
		}
		return l.window, l.err
	}
	<-l.ready
	return l.window, l.err
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
	if len(ws.recent) == mostWindows {
		ws.recent = append(ws.recent[:0:0], ws.recent[1:]...)
	}
	l = &lookup{number: number, ready: make(chan struct{})}
	ws.recent = append(ws.recent, l)
	return l, true
}

// forget lets a window be looked up again: an error may pass.
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
