package guest

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// OurJob returns the backup job on the domain that is this run's own, or was left by
// one that is dead; ok is false where there is none, or one of somebody else.
func (d *LockedDomain) OurJob() (job xml.Job, ok bool, err error) {
	doc, err := d.Domain.BackupJob()
	if errors.Is(err, hypervisor.ErrNoJob) || errors.Is(err, hypervisor.ErrNoDomain) {
		return job, false, nil
	}
	if err != nil {
		return job, false, err
	}
	if job, err = xml.ParseBackup(doc); err != nil {
		return job, false, err
	}
	if d.Own != "" && job.Socket == d.Socket(d.Own) {
		return job, true, nil // the repository may hang, which this run ends for
	}
	ledger, err := d.Ledger()
	return job, err == nil && d.IsOurs(ledger, job.Socket), err
}

// IsOurs tells whether a socket or scratch file is of an instant of this run, or of one
// that is dead. The names of others may look the same: those of a copy of this
// repository do.
func (d *LockedDomain) IsOurs(ledger *repository.Ledger, path string) bool {
	rest, ok := strings.CutPrefix(filepath.Base(path), NamePrefix)
	if !ok {
		return false
	}
	parts := strings.FieldsFunc(rest, func(c rune) bool { return c == '-' || c == '.' })
	if len(parts) < 3 {
		return false
	}
	i, ok := ledger.Find(parts[2])
	return ok && d.MayRemove(ledger, i)
}

// MayRemove tells whether what is left of an instant that is not sealed may be removed:
// it is of this run, or of a run that is dead. No run that holds the lock of this directory
// is alive but this one; one that holds the lock of the directory that this is a copy of
// may be.
func (d *LockedDomain) MayRemove(ledger *repository.Ledger, i instants.Instant) bool {
	if d.Own != "" && i.Identity == d.Own {
		return true
	}
	return !ledger.Inherited(i) && d.isDead(i.Process)
}

// isDead tells whether the run of a process is over. This process has ended those
// that it made in this directory before.
func (d *LockedDomain) isDead(p instants.Process) bool {
	self, err := instants.Self()
	return err == nil && p == self || !p.Alive()
}
