// Package pull is the source of disks that uses libvirt's pull mode. QEMU serves the disks of
// a running guest over NBD as they were when the job began, and saves the old content of the
// blocks that the guest overwrites meanwhile in scratch files (fleecing).
package pull

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// Source is a domain whose disks are read through a backup job of libvirt; see
// backup.Source for what its methods do. Make it with [New].
type Source struct {
	source.Options
	d       *guest.LockedDomain
	session *guest.Session // guards the guest
	warn    func(string)
	// open opens an export.
	open func(context.Context, nbdcopy.Source) (source.Export, error)

	idleBy   time.Time  // end of the wait for jobs of others; zero before the first wait
	seen     xml.Domain // when no other job was on it
	job      source.Job // as requested
	jobless  bool       // a job that began is over, or there was none
	quiesced bool       // the guest's file systems are, or were, frozen for the instant
	crash    string     // why they were not
	shutOff  bool       // the domain was shut off while the job ran
	dropped  bool       // libvirt does not list the checkpoint of this job
}

// New returns the source of a locked domain's disks. warn gets problems that do not stop the
// run; it may be called by several goroutines.
func New(d *guest.LockedDomain, options source.Options, warn func(string)) *Source {
	if options.Quiesce == "" {
		options.Quiesce = source.QuiesceTry
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{Options: options, d: d, session: guest.NewSession(d), warn: warn, open: openNBD}
}

// OpenWith sets the function that opens the exports, instead of nbdcopy.Open.
func (s *Source) OpenWith(open func(context.Context, nbdcopy.Source) (source.Export, error)) {
	s.open = open
}

func openNBD(ctx context.Context, s nbdcopy.Source) (source.Export, error) {
	e, err := nbdcopy.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// name is the domain's name; word is the name quoted for a command line.
func (s *Source) name() string { return s.d.Lock.Domain() }
func (s *Source) word() string { return manifest.ShellWord(s.name()) }

// Open opens the export of a disk of the job, for reading what has changed, or all of it.
// The caller closes it.
func (s *Source) Open(ctx context.Context, target string, changes bool) (source.Export, error) {
	job, err := s.session.Job()
	if err != nil {
		return nil, err
	}
	n := slices.IndexFunc(s.job.Disks, func(d source.JobDisk) bool { return d.Target == target })
	e := slices.IndexFunc(job.Disks, func(d xml.JobDisk) bool { return d.Target == target })
	if n < 0 || e < 0 {
		return nil, errors.New("libvirt's backup job does not export it")
	}
	export := job.Disks[e]
	from := nbdcopy.Source{Socket: job.Socket, Export: export.Export}
	if changes {
		if export.Bitmap == "" {
			return nil, errors.New("libvirt exports no dirty bitmap for it")
		}
		from.Bitmap, from.DirtyFrom = export.Bitmap, s.job.Disks[n].DirtyFrom
	}
	return s.open(ctx, from)
}

// CheckpointXML returns libvirt's document of the new checkpoint.
func (s *Source) CheckpointXML() (string, error) { return s.d.Domain.CheckpointXML(s.job.Checkpoint) }

// Sealed has nothing to do: the job has ended, and libvirt has the checkpoint.
func (s *Source) Sealed(context.Context) error { return nil }

// Gone reports whether nothing with the job's identity is left on the host: neither a job nor
// a checkpoint.
func (s *Source) Gone() bool {
	return !s.session.Began() || s.dropped || s.session.Ended() && s.job.Checkpoint == ""
}
