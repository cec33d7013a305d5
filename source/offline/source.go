// Package offline is the source of disks of a domain that is shut off. QEMU's storage daemon
// serves the images, and the bitmaps in them, as they are: nobody writes to them meanwhile, since
// the domain cannot start while they are being read.
//
// The order of a run is that of promises: a new bitmap records before the images are locked
// against writers, and they are locked before it is checked that nothing has changed. What is
// written before the lock is in what is read, and only makes the new bitmap larger; what is written
// after the run is in the bitmap.
//
//	identity recorded → qemu-img bitmap --add → lock → check → instant → read → sealed
//	→ unlocked → checkpoint defined in libvirt
package offline

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// Source is a domain that is shut off; see backup.Source for what its methods do. Make it with
// [New].
type Source struct {
	source.Options
	d    *guest.LockedDomain
	warn func(string)

	idleBy time.Time  // end of the wait for others who have the images open
	seen   xml.Domain // when nobody had
	// chains are the images of the disks to be copied, by target, as they were planned for.
	chains map[string][]qemuimg.Image
	ids    map[string]string // identities of their files, by path
	off    string            // why the domain is off: as of AwaitIdle, then as of the instant
	job    source.Job        // as requested, less the bitmaps that were refused
	begun  time.Time         // the instant
	doc    string            // of the new checkpoint; "" before CheckpointXML

	clean string // "" if the guest has shut down in order, else why the point is crash consistent

	added  []added // bitmaps that are, or may be, in images
	guard  guard   // keeps writers away
	daemon *storagedaemon.Daemon
	disks  map[string]export
	tried  bool // somebody has tried to start the domain
}

// added is a bitmap that this run has added to an image.
type added struct {
	image qemuimg.Image // as it was before
	name  string
}

// export is a disk that is served.
type export struct {
	*storagedaemon.Disk
	bitmap string // what has changed; "" for all of the disk
}

// New returns the source of the disks of a locked domain that is shut off. warn gets problems
// that do not stop the run; it may be called by several goroutines.
func New(d *guest.LockedDomain, options source.Options, warn func(string)) *Source {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{Options: options, d: d, warn: warn, disks: map[string]export{}}
}

// name is the domain's name; word is the name quoted for a command line.
func (s *Source) name() string { return s.d.Lock.Domain() }
func (s *Source) word() string { return manifest.ShellWord(s.name()) }

// Open opens a disk of the job, for reading what has changed, or all of it. The caller closes it.
func (s *Source) Open(ctx context.Context, target string, changes bool) (source.Export, error) {
	disk, ok := s.disks[target]
	n := slices.IndexFunc(s.job.Disks, func(d source.JobDisk) bool { return d.Target == target })
	if !ok || n < 0 {
		return nil, fmt.Errorf("disk %s is not served", target)
	}
	from := nbdcopy.Source{Socket: s.daemon.Socket(), Export: target}
	if changes {
		if disk.bitmap == "" {
			return nil, fmt.Errorf("no bitmap is served for disk %s", target)
		}
		from.Bitmap, from.DirtyFrom = disk.bitmap, s.job.Disks[n].DirtyFrom
	}
	e, err := nbdcopy.Open(ctx, from)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Gone reports whether nothing with the job's identity is left on the host.
func (s *Source) Gone() bool { return s.daemon == nil && len(s.added) == 0 }
