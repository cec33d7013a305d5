package terminal

import (
	"io"
	"unicode/utf8"
)

// Exact returns a writer of bytes that come from elsewhere, such as a file of a guest, to w: as they
// are, or made safe by [Plain] if w is a [Screen] on a terminal. Its errors are *OutputError.
func Exact(w io.Writer) io.Writer {
	s, ok := w.(*Screen)
	if !ok {
		return w
	}
	if IsTerminal(s.w) {
		return &wholeRunes{w: s}
	}
	s.used = true
	return exact{s.w}
}

// exact writes bytes as they are.
type exact struct{ w io.Writer }

func (e exact) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	if err != nil {
		err = &OutputError{err}
	}
	return n, err
}

// wholeRunes keeps the beginning of a character until the rest comes. One that never does is not
// printed.
type wholeRunes struct {
	w    io.Writer
	kept []byte
}

func (r *wholeRunes) Write(p []byte) (int, error) {
	r.kept = append(r.kept, p...)
	end := len(r.kept)
	for i := 1; i < utf8.UTFMax && i <= len(r.kept); i++ {
		if start := len(r.kept) - i; utf8.RuneStart(r.kept[start]) {
			if !utf8.FullRune(r.kept[start:]) {
				end = start
			}
			break
		}
	}
	_, err := r.w.Write(r.kept[:end])
	r.kept = append(r.kept[:0], r.kept[end:]...)
	return len(p), err
}
