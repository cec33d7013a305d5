package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// Source is a domain whose disks a run reads as they are at one instant: what a run needs of
// the guest and of what runs it. source/pull is libvirt's pull mode.
//
// A run calls the methods in this order, from one goroutine; but Open, Watch and Explain
// side by side. What has to be undone the source remembers by itself, so that Thaw and
// Abandon may be called after any of the others, whatever it returned.
type Source interface {
	// AwaitIdle waits until no job of others is on the domain and on the disks with
	// these targets, as long as the options say, and returns the domain as it is then.
	AwaitIdle(ctx context.Context, targets []string) (xml.Domain, error)
	// Inspect looks at those of the disks that can be copied.
	Inspect(disks []xml.Disk) ([]source.Disk, error)
	// Written returns how many bytes of a disk have been written to; ok is false where
	// that cannot be told.
	Written(d xml.Disk) (bytes int64, ok bool)
	// CheckSpace refuses a job that the source has no space for on this host; size is that
	// of all disks together, in bytes.
	CheckSpace(size int64) error
	// Room says what the source keeps for itself of the file system of a directory.
	Room(dir string, size int64) source.Room
	// Prepare makes what the job needs on this host; it stays.
	Prepare() error
	// StillIdle is AwaitIdle just before the instant. It fails where a disk has another
	// image than AwaitIdle has seen.
	StillIdle(ctx context.Context, targets []string) error
	// Freeze freezes the guest's file systems, as far as the options ask for it.
	Freeze(ctx context.Context) error
	// Begin begins the job: from then on Open shows the disks as they are now. It may have
	// begun after an error, too.
	Begin(ctx context.Context, job source.Job) (source.Begun, error)
	// Thaw undoes Freeze.
	Thaw(ctx context.Context) error
	// Open opens a disk, to be read as a whole or with what has changed on it.
	Open(ctx context.Context, target string, changes bool) (source.Export, error)
	// Watch returns an error when the job has to end for the guest's sake, and nil when
	// ctx ends. taken says what the point takes of the repository's file system.
	Watch(ctx context.Context, size int64, taken func() source.Taken) error
	// Explain returns the cause of an error of reading, or the error itself.
	Explain(ctx context.Context, err error) error
	// End ends the job, once all has been read. An error says that what was read may not
	// be the state of the instant.
	End(ctx context.Context) error
	// Abandon undoes Begin: the job ends, if it runs, and its checkpoint goes, unless it is
	// to be kept. hung says that the repository hangs.
	Abandon(ctx context.Context, keep, hung bool) error
	// Gone tells whether nothing of the job's identity is left.
	Gone() bool
}
