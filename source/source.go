// Package source has the types that backups and sources of disks share. A source is where
// a run reads the disks of a domain as they were at one instant: source/pull is libvirt's
// pull mode. backup.Source is what a run needs of a source.
package source

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/xml"
)

// Quiesce says whether the guest's file systems are frozen for the instant of
// the point.
type Quiesce string

const (
	// QuiesceTry freezes if the guest agent answers in time.
	QuiesceTry Quiesce = "try"
	// QuiesceRequire fails the run if the guest cannot be frozen.
	QuiesceRequire Quiesce = "require"
	// QuiesceNo does not talk to the guest.
	QuiesceNo Quiesce = "no"
)

// Options are how a source treats the guest and the host.
type Options struct {
	Quiesce Quiesce // "" is QuiesceTry
	// AgentTimeout bounds each call to the guest agent; 0 means 10 seconds,
	// the time that Windows' VSS allows for a freeze.
	AgentTimeout time.Duration
	// Wait is how long to wait for jobs of others.
	Wait time.Duration
	// ScratchDir and SocketDir are directories that QEMU may write to; "" means
	// guest.DefaultRunDir.
	ScratchDir, SocketDir string
	// ScratchLimit is how many bytes the scratch files may take before the run
	// ends the backup; 0 means that only their file system limits them.
	ScratchLimit int64
	// Exclusive: no other host uses the block devices and network file systems of a domain that
	// is shut off, so that its images there may be opened for writing.
	Exclusive bool
	// Yield ends the backup of a domain that is shut off when somebody wants to start it, which
	// fails meanwhile.
	Yield bool
	// Log gets a message for each step. It may be nil.
	Log *slog.Logger
}

// Image is an image that a disk is stored in: where it is, and what distinguishes it from
// another one at the same place.
type Image struct {
	Source string
	ID     string // "" if unknown
	// Bitmaps are the names of its persistent bitmaps; nil if they are unknown.
	Bitmaps []string
	// Written is when its file was written to last; "" if unknown.
	Written string
}

// writtenMark is between the ID of a backing file and the time when it was written to.
const writtenMark = ",written:"

// backingID is the ID of a backing file, and when it was written to: nobody writes to one while an
// overlay depends on it, and no bitmap of the overlay would show that. One that has bitmaps is
// written to when these are deleted.
func (i Image) backingID() string {
	if i.ID == "" || i.Written == "" || i.Bitmaps == nil || len(i.Bitmaps) > 0 {
		return i.ID
	}
	return i.ID + writtenMark + i.Written
}

// BackingIDs returns the IDs of the backing files of a disk with these images, and when those
// without bitmaps were written to; "" for those that are unknown. It returns nil if the images are
// unknown, and an empty slice if there are none below the top one.
func BackingIDs(images []Image) []string {
	if len(images) == 0 {
		return nil
	}
	ids := []string{}
	for _, i := range images[1:] {
		ids = append(ids, i.backingID())
	}
	return ids
}

// Disk is a disk as the source sees it before the job begins.
type Disk struct {
	xml.Disk        // Format is [QCOW2Version2] for an image that cannot have bitmaps
	Size      int64 // virtual, bytes
	Allocated int64 // bytes that its image occupies on the host
	// Images are the images of the disk, the top one first, then its backing files.
	Images []Image
}

// QCOW2Version2 is the format of a qcow2 image of version 2, which cannot have bitmaps.
const QCOW2Version2 = "qcow2 v2"

// Job is the job that a run asks a source to begin.
type Job struct {
	Instant instants.Instant // what was issued for the point
	// Checkpoint is the name of the checkpoint to make at the same instant, "" for none.
	Checkpoint string
	Disks      []JobDisk
	LeftOut    []string // targets of the domain's other disks
}

// JobDisk is a disk of a job.
type JobDisk struct {
	Target string
	// Since is the checkpoint whose bitmap shows what changed; "" to read all of the disk.
	Since string
	// DirtyFrom is the offset from which everything counts as changed: the size of the
	// disk at Since, in bytes.
	DirtyFrom int64
	Bitmap    bool // the new checkpoint covers it
}

// Targets names the disks of the job.
func (j Job) Targets() (targets []string) {
	for _, d := range j.Disks {
		targets = append(targets, d.Target)
	}
	return targets
}

// Begun describes a job that has begun.
type Begun struct {
	Time     time.Time // of the instant
	Quiesced bool      // the guest's file systems were frozen
	// NotQuiesced is why they were not, "" if that was not requested.
	NotQuiesced string
	// Refused are the disks that the new checkpoint does not cover although the job asked
	// for it, and why. If no disk is covered there is no checkpoint.
	Refused map[string]error
}

// Taken is what a point takes on the repository's file system, in bytes.
type Taken struct {
	Most int64 // when it is done, at most
	Now  int64 // so far, at most
}

// Room is what a source reserves for itself on the file system of a directory, in bytes.
type Room struct {
	Shared  bool  // the source has files of its own there
	Reserve int64 // must stay free for them
	Free    int64 // is free for them
}

// Export is one disk as it was at the instant; *nbdcopy.Export is one.
type Export interface {
	flatten.Disk
	Copy(ctx context.Context, sink extent.Sink, options nbdcopy.Options) (nbdcopy.Stats, error)
	Measure(ctx context.Context, cluster int, moves func()) (nbdcopy.Measured, error)
	Close()
}

// ErrStarted says that a domain that was shut off has been started before the instant of the
// point: it has to be backed up as one that runs.
var ErrStarted = errors.New("was started when it was to be backed up")

// EndedError is why a run ended a copy that could have continued.
type EndedError struct{ error }

// Unwrap returns the cause.
func (e *EndedError) Unwrap() error { return e.error }

// Ended returns an *EndedError with a hint.
func Ended(hint, format string, args ...any) error {
	return &EndedError{fail.Errorf(fail.Other, hint, format, args...)}
}
