// Package pull is a source of disks: libvirt's pull mode. QEMU serves the disks of a running
// guest over NBD as they were when the job began, and saves the old content of what the guest
// overwrites meanwhile into scratch files (fleecing).
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

// Source is a domain whose disks are read by a job of libvirt's; see backup.Source for
// what its methods do. Make it with [New].
type Source struct {
	source.Options
	d       *guest.LockedDomain
	session *guest.Session // guards the guest
	warn    func(string)
	// open opens an export.
	open func(context.Context, nbdcopy.Source) (source.Export, error)

	idleBy   time.Time  // until when jobs of others are waited for; zero before the first wait
	seen     xml.Domain // as it was when no job of others was on it
	job      source.Job // what is, or was, to begin
	jobless  bool       // a job that began is over, or there was none
	quiesced bool       // the guest's file systems are, or were, frozen for the instant
	crash    string     // why they were not
	shutOff  bool       // the domain was shut off while the job ran
	dropped  bool       // libvirt does not list the checkpoint of this job
}

// New returns the source of a locked domain's disks. warn is told what a person should know
// although the run goes on; it may be called by several goroutines.
func New(d *guest.LockedDomain, options source.Options, warn func(string)) *Source {
	if options.Quiesce == "" {
		options.Quiesce = source.QuiesceTry
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{Options: options, d: d, session: guest.NewSession(d), warn: warn, open: openNBD}
}

// OpenWith makes open open the exports instead of nbdcopy.Open.
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

// name is the domain's name; word is the same as it is typed on a command line.
func (s *Source) name() string { return s.d.Lock.Domain() }
func (s *Source) word() string { return manifest.ShellWord(s.name()) }

// Open opens the export of a disk of the job, with what has changed on it, or to be read as
// a whole. The caller closes it.
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

// Gone tells whether nothing of the job's identity is left on the host: neither a job nor a
// checkpoint.
func (s *Source) Gone() bool {
	return !s.session.Began() || s.dropped || s.session.Ended() && s.job.Checkpoint == ""
}
