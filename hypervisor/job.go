package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
)

// BackupBegin starts a pull-mode job and, with a checkpointXML that is not "", creates a checkpoint at the same instant
// (virDomainBackupBegin, since 6.0; incremental since 7.6). It is never tried twice.
//
// Whatever it returns, look the checkpoint up afterwards: libvirt keeps it when only the export failed. ErrBusy comes after
// 30 s of waiting for the job that holds the domain: RunningJob says which. Further kinds are ErrNotRunning,
// ErrCheckpointInconsistent, ErrNoCheckpoint (an incremental since one that libvirt does not know), ErrCheckpointExists,
// ErrBitmap, ErrSocket and ErrScratch. The directory of the socket has to be writable for QEMU's user, that of the scratch files only
// searchable: they must be there already, as qcow2 images of the disks' sizes, and stay when the job ends (REUSE_EXTERNAL).
// libvirt labels them for QEMU, and takes the labels back.
//
// A guest that shuts down in mid-job ends it, except where libvirt (since 11.10) can keep its QEMU, reset and paused, until
// the job has ended.
func (d *Domain) BackupBegin(backupXML, checkpointXML string) error {
	flags, err := d.conn.beginFlags()
	if err != nil {
		return about(err, "begin backup of domain %s", d.name)
	}
	flags |= libvirt.DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
	err = d.once(func(dom *libvirt.Domain) error { return dom.BackupBegin(backupXML, checkpointXML, flags) })
	return about(d.orNotRunning(beginError(err)), "begin backup of domain %s", d.name)
}

// preservesShutdown is the first version of libvirt's daemon that knows VIR_DOMAIN_BACKUP_BEGIN_PRESERVE_SHUTDOWN_DOMAIN;
// older ones refuse the flag.
const preservesShutdown = 11_010_000

// beginFlags are those of virDomainBackupBegin that the daemon knows.
func (c *Conn) beginFlags() (libvirt.DomainBackupBeginFlags, error) {
	version, err := c.daemonVersion()
	return flagsOf(version), err
}

// daemonVersion is 1,000,000 times the major, 1,000 times the minor version, and the release (virConnectGetLibVersion).
func (c *Conn) daemonVersion() (version uint32, err error) {
	err = c.withRetry(func(conn *libvirt.Connect) error {
		version, err = conn.GetLibVersion()
		return err
	})
	return version, err
}

func flagsOf(version uint32) libvirt.DomainBackupBeginFlags {
	if version < preservesShutdown {
		return 0
	}
	return libvirt.DOMAIN_BACKUP_BEGIN_PRESERVE_SHUTDOWN_DOMAIN
}

// BackupJob returns the <domainbackup> document of the running job, with all names filled in
// (virDomainBackupGetXMLDesc, since 6.0); ErrNoJob if there is none, also if the domain does not run.
func (d *Domain) BackupJob() (doc string, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		doc, err = dom.BackupGetXMLDesc(0)
		return err
	})
	return doc, about(err, "read the backup job of domain %s", d.name)
}

// EndBackup ends the backup job (virDomainAbortJob, which is how a pull job ends) and waits until libvirt has none left. It
// is not an error if there is none, or if the domain is gone. Call it after the last read has returned: the exports stay
// readable for a moment without protection from the guest's writes.
//
// It ends whichever backup job the domain has: the caller must know that it is its own (BackupJob). In clean-up paths pass a
// context that is not cancelled with the run's; ctx is checked between calls.
func (d *Domain) EndBackup(ctx context.Context) error {
	asked := false
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		_, err := d.BackupJob()
		if errors.Is(err, ErrNoJob) || errors.Is(err, ErrNoDomain) {
			return nil
		}
		if err == nil && !asked {
			// If the job ends by itself at this moment the call fails, and the next round sees no job.
			err = d.with(func(dom *libvirt.Domain) error { return dom.AbortJob() })
			asked = err == nil
		}
		if err := wait(ctx, pause, err); err != nil {
			return about(err, "end backup of domain %s", d.name)
		}
	}
}

// wait sleeps, or returns ctx's error together with the reason for waiting.
func wait(ctx context.Context, pause time.Duration, reason error) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		if reason != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), reason)
		}
		return fmt.Errorf("%w while the job was ending", ctx.Err())
	}
}

// JobStats is what libvirt says about the running job.
type JobStats struct {
	Operation string        // "backup", "outgoing migration", …
	Elapsed   time.Duration // since the job began
	TempUsed  int64         // bytes in the scratch files: old content of blocks that the guest has overwritten
	TempTotal int64         // bytes that the scratch files can grow to
}

// JobStats returns the statistics of the running job, whoever began it (virDomainGetJobStats; scratch since 7.10); ErrNoJob
// if there is none, also if the domain does not run.
func (d *Domain) JobStats() (JobStats, error) {
	var stats JobStats
	err := d.with(func(dom *libvirt.Domain) error {
		info, err := jobInfo(dom)
		if err != nil {
			return err
		}
		if info.Type == libvirt.DOMAIN_JOB_NONE {
			return &Error{Kind: ErrNoJob, Message: "the domain has no job"}
		}
		stats = newJobStats(info)
		return nil
	})
	if err = d.orNotRunning(err); errors.Is(err, ErrNotRunning) {
		err = &Error{Kind: ErrNoJob, Message: "the domain is not running, and has no job"}
	}
	return stats, about(err, "read the job statistics of domain %s", d.name)
}

// jobInfo asks again if a backup job ended or began at the same time (qemuBackupGetJobInfoStats: backup job data missing,
// VIR_ERR_INTERNAL_ERROR, the code for everything): libvirt then has no backup job to report, or another one.
func jobInfo(dom *libvirt.Domain) (info *libvirt.DomainJobInfo, err error) {
	for range 10 {
		info, err = dom.GetJobStats(0)
		if !errors.Is(err, libvirt.ERR_INTERNAL_ERROR) {
			break
		}
		if _, err := dom.BackupGetXMLDesc(0); errors.Is(err, libvirt.ERR_NO_DOMAIN_BACKUP) {
			return nil, &Error{Kind: ErrNoJob, Message: "the backup job has just ended"}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return info, err
}

func newJobStats(info *libvirt.DomainJobInfo) JobStats {
	return JobStats{
		Operation: operationName(info.Operation),
		Elapsed:   time.Duration(info.TimeElapsed) * time.Millisecond,
		TempUsed:  int64(info.DiskTempUsed),
		TempTotal: int64(info.DiskTempTotal),
	}
}

// operations names virDomainJobOperation for people.
var operations = map[libvirt.DomainJobOperationType]string{
	libvirt.DOMAIN_JOB_OPERATION_START:           "start",
	libvirt.DOMAIN_JOB_OPERATION_SAVE:            "save",
	libvirt.DOMAIN_JOB_OPERATION_RESTORE:         "restore",
	libvirt.DOMAIN_JOB_OPERATION_MIGRATION_IN:    "incoming migration",
	libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT:   "outgoing migration",
	libvirt.DOMAIN_JOB_OPERATION_SNAPSHOT:        "snapshot",
	libvirt.DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "snapshot revert",
	libvirt.DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE: "snapshot deletion",
	libvirt.DOMAIN_JOB_OPERATION_DUMP:            "dump",
	libvirt.DOMAIN_JOB_OPERATION_BACKUP:          "backup",
}

func operationName(operation libvirt.DomainJobOperationType) string {
	if name, known := operations[operation]; known {
		return name
	}
	return "unknown"
}

// BlockJob is a job of QEMU on a disk other than a backup.
type BlockJob struct {
	Kind string // "copy", "pull", "commit" or "active commit"; "" is none
	// Mirror says that it does not end by itself: once it has caught up, it follows the guest's writes until it is pivoted or
	// aborted.
	Mirror bool
	// Done of Total is how far it is, in a unit of QEMU's own: bytes of the disk, mostly.
	Done, Total uint64
}

// blockJobs names virDomainBlockJobType for people. Backup jobs are not among them: BackupJob is about those.
var blockJobs = map[libvirt.DomainBlockJobType]BlockJob{
	libvirt.DOMAIN_BLOCK_JOB_TYPE_PULL:          {Kind: PullJob},
	libvirt.DOMAIN_BLOCK_JOB_TYPE_COPY:          {Kind: "copy", Mirror: true},
	libvirt.DOMAIN_BLOCK_JOB_TYPE_COMMIT:        {Kind: "commit"},
	libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: {Kind: "active commit", Mirror: true},
}

// BlockJob returns the block job on a disk, whoever began it (virDomainGetBlockJobInfo). While there is one BackupBegin fails
// at once, with VIR_ERR_INTERNAL_ERROR.
func (d *Domain) BlockJob(target string) (job BlockJob, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		info, err := dom.GetBlockJobInfo(target, 0)
		if err == nil && info != nil {
			job = blockJobs[info.Type]
			job.Done, job.Total = info.Cur, info.End
		}
		return err
	})
	return job, about(d.orNotRunning(err), "ask for block jobs on disk %s of domain %s", target, d.name)
}

// Settle returns once libvirt has finished to begin or to end a backup job, if it does so now. Meanwhile BackupJob shows no
// job. libvirt goes on with a BackupBegin although the program that has asked for it was killed; and at the end it still takes
// its labels off the scratch files. The statistics wait for what libvirt does with QEMU (VIR_JOB_QUERY); in between they
// are those of a job that libvirt has no data of (jobInfo). A job of something else is not waited for. ErrBusy if it takes
// longer than ctx.
func (d *Domain) Settle(ctx context.Context) error {
	for {
		err := d.with(func(dom *libvirt.Domain) error {
			_, err := dom.GetJobStats(0)
			return err
		})
		if !hasCode(err, libvirt.ERR_INTERNAL_ERROR) && !hasCode(err, libvirt.ERR_OPERATION_TIMEOUT) {
			return nil // what else is wrong the next question says
		}
		if _, shown := d.BackupJob(); !errors.Is(shown, ErrNoJob) {
			return nil
		}
		if err := wait(ctx, 50*time.Millisecond, err); err != nil {
			return about(withKind(err, ErrBusy), "await the begin or end of a job of domain %s", d.name)
		}
	}
}

// RunningJob says which job holds the domain, for the message that goes with ErrBusy: "backup", "outgoing migration", …, or
// "" if there is none (virDomainGetJobStats).
func (d *Domain) RunningJob() (string, error) {
	stats, err := d.JobStats()
	if errors.Is(err, ErrNoJob) {
		return "", nil
	}
	return stats.Operation, err
}
