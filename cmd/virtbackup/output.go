package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// screen is standard output.
type screen struct {
	w     io.Writer
	width int  // columns of the terminal; 0 has no end
	used  bool // something was printed
}

// newScreen asks w for its width, if it is a terminal; COLUMNS says otherwise.
func newScreen(w io.Writer) *screen {
	s := &screen{w: w}
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

// Write prints p, which has whole characters, with what plain replaces. Its errors say
// that they are of standard output and of no file.
func (s *screen) Write(p []byte) (int, error) {
	s.used = true
	if _, err := io.WriteString(s.w, plain(string(p))); err != nil {
		return 0, &outputError{err}
	}
	return len(p), nil
}

// widthOf is the width of a writer, if it is a screen.
func widthOf(w io.Writer) int {
	if s, ok := w.(*screen); ok {
		return s.width
	}
	return 0
}

// outputError is one of standard output.
type outputError struct{ err error }

func (e *outputError) Error() string { return fmt.Sprintf("print to standard output: %v", e.err) }
func (e *outputError) Unwrap() error { return e.err }

// Hint keeps the advice for full repositories away.
func (e *outputError) Hint() string { return "nothing in the repository is wrong by that" }

// printAnswer prints what was asked for: v as JSON with --json, else whatever people does.
func printAnswer(c *cli.Context, v any, people func(io.Writer) error) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	return people(c.App.Writer)
}

// printDone reports what was done; with --quiet only programs are told. It is done, so
// that it cannot be printed is a warning.
func printDone(c *cli.Context, v any, people func(io.Writer) error) error {
	if c.Bool("quiet") && !c.Bool("json") {
		return nil
	}
	if err := printAnswer(c, v, people); err != nil {
		logger(c, c.App.ErrWriter).Warn(fmt.Sprintf("done, but the report of it is not complete: %v", err))
		return errWarned
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
