package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// Source is a domain whose disks a run reads as they are at one instant: what a run needs
// of the guest and its hypervisor. source/pull is libvirt's pull mode,
// source/offline reads the images of a domain that is shut off.
//
// A run calls the methods in this order, from one goroutine, except that Open, Watch and
// Explain may run concurrently. The source remembers what has to be undone, so Thaw and
// Abandon may be called after any of the others, whatever they returned.
type Source interface {
	// AwaitIdle waits until no other job runs on the domain or on the disks with these
	// targets, up to the time in the options, and returns the domain as it is then.
	AwaitIdle(ctx context.Context, targets []string) (xml.Domain, error)
	// Inspect returns size, allocation and images of the disks that can be copied.
	Inspect(disks []xml.Disk) ([]source.Disk, error)
	// Written returns how many bytes of a disk have been written to; ok is false if that
	// is unknown.
	Written(d xml.Disk) (bytes int64, ok bool)
	// CheckSpace refuses a job that the source has no space for on this host. size is the
	// sum of the sizes of all disks, in bytes.
	CheckSpace(size int64) error
	// Room returns what the source reserves for itself on the file system of a directory.
	Room(dir string, size int64) source.Room
	// Prepare makes what the job needs on this host. Cleanup, once the job is over, undoes
	// it as far as nothing else needs it.
	Prepare(job source.Job) error
	Cleanup(ctx context.Context) error
	// StillIdle waits like AwaitIdle, just before the instant. It fails if a disk has
	// another image than when AwaitIdle returned.
	StillIdle(ctx context.Context, targets []string) error
	// Freeze freezes the guest's file systems if the options ask for it.
	Freeze(ctx context.Context) error
	// Begin begins the job: from then on Open shows the disks as they are now. Even if it
	// returns an error, the job may have begun.
	Begin(ctx context.Context) (source.Begun, error)
	// Thaw undoes Freeze.
	Thaw(ctx context.Context) error
	// Open opens a disk for reading: all of it, or what has changed.
	Open(ctx context.Context, target string, changes bool) (source.Export, error)
	// Watch returns an error when the job has to end to protect the guest, and nil when
	// ctx is cancelled. taken says what the point takes on the repository's file system.
	Watch(ctx context.Context, size int64, taken func() source.Taken) error
	// Explain returns the cause of a read error, or the error itself.
	Explain(ctx context.Context, err error) error
	// End ends the job after everything has been read. After an error the data that was
	// read may not be that of the instant.
	End(ctx context.Context) error
	// CheckpointXML returns the document of the new checkpoint, with which libvirt can be given it
	// again.
	CheckpointXML() (string, error)
	// Sealed is called once the point is listed: libvirt has its checkpoint, at the latest, when
	// it returns.
	Sealed(ctx context.Context) error
	// Abandon undoes Begin: it ends the job if it runs, and deletes its checkpoint unless
	// keep is set. hung says that the repository hangs.
	Abandon(ctx context.Context, keep, hung bool) error
	// Gone reports whether nothing with the job's identity is left.
	Gone() bool
}
