package nbdcopy

import "context"

// Limiter holds a copy back; a *rate.Limiter of golang.org/x/time is one. WaitN
// waits until n more bytes, MaxRead at most, may be read, or ctx ends.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
}

// MaxRead is the largest number of bytes that a Limiter is asked for at once.
const MaxRead = bufferSize
