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
	width int  // in columns; 0 is no limit
	used  bool // something was printed
}

// NewScreen returns a Screen of the width that the environment variable COLUMNS or else the
// terminal w has.
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

// Write prints p, which must not end within a character, made safe by [Plain]. Its errors
// are *OutputError.
func (s *Screen) Write(p []byte) (int, error) {
	s.used = true
	if _, err := io.WriteString(s.w, Plain(string(p))); err != nil {
		return 0, &OutputError{err}
	}
	return len(p), nil
}

// Raw returns standard output itself, for what is not text. From then on it counts as used.
func (s *Screen) Raw() io.Writer {
	s.used = true
	return s.w
}

// Used reports whether anything was printed.
func (s *Screen) Used() bool { return s.used }

// Width returns the width of a writer in columns if it is a [Screen]. 0 is no limit.
func Width(w io.Writer) int {
	if s, ok := w.(*Screen); ok {
		return s.width
	}
	return 0
}

// OutputError is an error of standard output.
type OutputError struct{ err error }

// Error names standard output, so that it is not taken for a file.
func (e *OutputError) Error() string { return fmt.Sprintf("print to standard output: %v", e.err) }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.err }

// Hint replaces the advice for a full repository.
func (e *OutputError) Hint() string { return "the repository is not affected" }
