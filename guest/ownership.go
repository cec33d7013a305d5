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

// OurJob returns the backup job on the domain if it is this run's own, or was left by a
// dead run; ok is false if there is none, or if it belongs to somebody else.
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
		return job, true, nil // without the repository, which may be hanging
	}
	ledger, err := d.Ledger()
	return job, err == nil && d.IsOurs(ledger, job.Socket), err
}

// IsOurs reports whether a socket or scratch file belongs to an instant of this run or of
// a dead one. The names of others may look the same: those of a copy of this repository do.
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

// MayRemove reports whether what is left of an unsealed instant may be removed: it belongs
// to this run or to a dead one. This run holds the lock of this directory, so no other run
// there is alive; but one may be alive in the directory that this is a copy of.
func (d *LockedDomain) MayRemove(ledger *repository.Ledger, i instants.Instant) bool {
	if d.Own != "" && i.Identity == d.Own {
		return true
	}
	return !ledger.Inherited(i) && d.isDead(i.Process)
}

// isDead reports whether the run of a process is over. Earlier runs of this process in this
// directory are.
func (d *LockedDomain) isDead(p instants.Process) bool {
	self, err := instants.Self()
	return err == nil && p == self || !p.Alive()
}
