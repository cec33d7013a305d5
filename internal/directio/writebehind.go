package directio

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/eintr"
)

// behindRanges is how many writes may be in the page cache before the oldest is waited for
// and dropped. 32 of 1 MiB keep any disk's queue full; more would take memory from the
// guests.
const behindRanges = 32

// writeBehind keeps the host's page cache small where O_DIRECT does not work: writeback of
// each write is started at once, and its pages are dropped when it is done. Without it a
// backup evicts the host's page cache, and ends in one long fsync.
type writeBehind struct {
	mu    sync.Mutex
	queue [behindRanges]span // ring, oldest at next
	next  int
}

type span struct{ offset, length int64 }

// wrote takes note of a write that is in the page cache now.
func (b *writeBehind) wrote(f *os.File, offset, length int64) error {
	if err := syncRange(f, span{offset, length}, unix.SYNC_FILE_RANGE_WRITE); err != nil {
		return err
	}
	b.mu.Lock()
	oldest := b.queue[b.next]
	b.queue[b.next] = span{offset, length}
	b.next = (b.next + 1) % len(b.queue)
	b.mu.Unlock()
	if oldest.length == 0 {
		return nil
	}
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if err := syncRange(f, oldest, wait); err != nil {
		return err
	}
	unix.Fadvise(int(f.Fd()), oldest.offset, oldest.length, unix.FADV_DONTNEED) // advice: may fail
	return nil
}

// syncRange does not swallow write errors: sync_file_range(2) reports an error
// of earlier writeback once, and the fsync that follows would not see it again.
func syncRange(f *os.File, s span, flags int) error {
	err := eintr.Retry(func() error { return unix.SyncFileRange(int(f.Fd()), s.offset, s.length, flags) })
	if err == nil || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil
	}
	return &os.PathError{Op: "sync_file_range", Path: f.Name(), Err: err}
}
