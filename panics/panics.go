// Package panics lets a run clean up although one of its goroutines panicked:
// without it such a panic ends the process at once, and a libvirt job, a
// checkpoint or a frozen guest stays behind.
package panics

import (
	"fmt"
	"runtime/debug"
)

// Error is a panic as an error, with the stack of the goroutine it was in.
type Error struct {
	Value any
	Stack []byte
}

// Error says what was panicked with and where: it is a bug, and this is its
// report.
func (e *Error) Error() string {
	return fmt.Sprintf("internal error, please report it: %v\n%s", e.Value, e.Stack)
}

// Caught wraps what a goroutine does so that its panic becomes an *Error, which
// whoever waits for the goroutine gets.
func Caught(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &Error{Value: v, Stack: debug.Stack()}
			}
		}()
		return f()
	}
}
