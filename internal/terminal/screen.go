package terminal

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Screen is standard output: a terminal, a pipe or a file.
type Screen struct {
	w     io.Writer
	width int  // columns; 0 has no end
	used  bool // something was printed
}

// NewScreen asks w for its width, if it is a terminal; COLUMNS says otherwise.
func NewScreen(w io.Writer) *Screen {
	s := &Screen{w: w}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		s.width = n
		return s
	}
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			s.width = int(size.Col)
		}
	}
	return s
}

// Write prints p, which has whole characters, with what [Plain] replaces. Its errors say
// that they are of standard output and of no file.
func (s *Screen) Write(p []byte) (int, error) {
	s.used = true
	if _, err := io.WriteString(s.w, Plain(string(p))); err != nil {
		return 0, &OutputError{err}
	}
	return len(p), nil
}

// Used tells whether something was printed.
func (s *Screen) Used() bool { return s.used }

// Width is the width of a writer, if it is a [Screen]; 0 has no end.
func Width(w io.Writer) int {
	if s, ok := w.(*Screen); ok {
		return s.width
	}
	return 0
}

// OutputError is one of standard output.
type OutputError struct{ err error }

// Error says that it is one of standard output.
func (e *OutputError) Error() string { return fmt.Sprintf("print to standard output: %v", e.err) }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.err }

// Hint keeps the advice for full repositories away.
func (e *OutputError) Hint() string { return "nothing in the repository is wrong by that" }
