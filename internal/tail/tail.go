// Package tail keeps the end of what a program writes, however much that is.
package tail

import (
	"bytes"
	"strings"
	"sync"
	"unicode/utf8"
)

// Writer keeps the last bytes that are written to it. Its methods may be called side by side.
type Writer struct {
	limit int

	mu   sync.Mutex
	kept bytes.Buffer
}

// New returns a Writer that keeps limit bytes.
func New(limit int) *Writer { return &Writer{limit: limit} }

// Write implements io.Writer. It never fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	w.kept.Write(p[max(0, n-w.limit):])
	if over := w.kept.Len() - w.limit; over > 0 {
		w.kept.Next(over)
	}
	return n, nil
}

// String is what is kept, as valid UTF-8: the cut may be in the middle of a character.
func (w *Writer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.ToValidUTF8(w.kept.String(), string(utf8.RuneError))
}
