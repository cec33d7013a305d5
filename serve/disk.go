package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// maxReaders read a disk at a time: no more than there are processors, which hash, and no more
// than make sense for one disk. Each has some hundred KiB of its own.
const maxReaders = 8

// disk is what an export serves.
type disk struct {
	images  *chain.Chain
	readers chan *chain.Reader // those that nobody uses
	failed  func(error) error  // reports an error, and returns what the client gets
}

func newDisk(images *chain.Chain, failed func(error) error) *disk {
	d := &disk{images: images, readers: make(chan *chain.Reader, min(maxReaders, max(2, runtime.GOMAXPROCS(0)))), failed: failed}
	for range cap(d.readers) {
		d.readers <- images.NewReader()
	}
	return d
}

// Size is that of nbdserver.Disk, as the other methods are.
func (d *disk) Size() int64 { return d.images.Size() }

func (d *disk) ReadAt(p []byte, off int64) error {
	r := <-d.readers
	defer func() { d.readers <- r }()
	_, err := r.ReadAt(p, off)
	if err != nil {
		err = d.failed(fmt.Errorf("%d bytes at offset %d: %w", len(p), off, err))
	}
	return err
}

func (d *disk) Run(off int64) (end int64, hole bool, err error) {
	end, state, err := d.images.RunAt(off)
	if err != nil {
		err = d.failed(fmt.Errorf("look up offset %d: %w", off, err))
	}
	return end, state != chain.Data, err
}

// maxFailures bounds the log: a client may read what is damaged again and again.
const maxFailures = 1000

// FailurePrefix begins the message of each error that is logged for damage: what cannot be read now,
// as from a server that is away, is no damage.
const FailurePrefix = "cannot read disk "

// failures logs and reports each error once.
type failures struct {
	log     *slog.Logger
	explain func(error) error
	report  func(error) // may be nil

	mu   sync.Mutex
	seen map[string]bool
}

// of returns what reports the errors of a disk.
func (f *failures) of(target string) func(error) error {
	return func(err error) error {
		what := err.Error()
		if damaged := (*damage.Error)(nil); errors.As(err, &damaged) {
			what = damaged.Error() // whatever clients ask for of it
		}
		if f.isNew(target + what) {
			explained := f.explain(err)
			prefix := "disk "
			if fail.Is(explained, fail.Damaged) {
				prefix = FailurePrefix
			}
			explained = fmt.Errorf(prefix+"%s: %w", target, explained)
			f.log.Error(explained.Error())
			if f.report != nil {
				f.report(explained)
			}
		}
		return err
	}
}

func (f *failures) isNew(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[what] || len(f.seen) == maxFailures {
		return false
	}
	f.seen[what] = true
	return true
}
