package nbdcopy

import "context"

// Limiter limits the rate of a copy; a *rate.Limiter of golang.org/x/time is one.
// WaitN waits until n more bytes, MaxRead at most, may be read, or ctx is cancelled.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
}

// MaxRead is the largest number of bytes that a Limiter is asked for at once.
const MaxRead = bufferSize
