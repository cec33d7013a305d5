package eintr

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRetry(t *testing.T) {
	for _, end := range []error{nil, unix.EIO} {
		calls := 0
		err := Retry(func() error {
			calls++
			if calls < 3 {
				return &os.SyscallError{Syscall: "fsync", Err: unix.EINTR}
			}
			return end
		})
		if err != end || calls != 3 {
			t.Errorf("got %v after %d calls, want %v after 3", err, calls, end)
		}
	}
}
