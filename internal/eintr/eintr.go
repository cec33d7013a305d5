// Package eintr repeats system calls that a signal interrupted.
package eintr

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Retry makes a system call until it returns anything but EINTR, as package os does: the Go
// runtime sends itself signals.
func Retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
