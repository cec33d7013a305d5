package hypervisor

import (
	"fmt"

	"libvirt.org/go/libvirt"
)

// blocksSpeed is the first version of libvirt's daemon of which it is not known that it executes virDomainBlockJobSetSpeed
// during a backup. 9.0 does. 11.3 waits 30 s for the backup to end, and fails: there the call is a job of the type "modify
// migration safe", which qemuBackupBegin does not allow beside the backup (VIR_JOB_MODIFY_MIGRATION_SAFE).
const blocksSpeed = 9_001_000

// ProveBackup returns nil only if QEMU still keeps the old content of the disks for the backup job: what was read
// before the call was protected from the guest's writes. Otherwise ErrNoJob. targets are all disks of the job. To find out
// whose job it is, use BackupJob.
//
// BackupJob alone proves nothing: when a job ends QEMU removes its filter first, and libvirt, which learns of that by an
// event, has been seen to list the job for 10 to 250 ms more, all its exports readable for a part of that time (8 of 8 jobs
// that were aborted under it; libvirt 9.0.0). virDomainGetBlockJobInfo does not tell a concluded job from a running one.
func (d *Domain) ProveBackup(targets []string) error {
	version, err := d.conn.daemonVersion()
	if err != nil {
		return about(err, "prove that the backup job of domain %s runs", d.name)
	}
	if version >= blocksSpeed {
		return d.proveByStats(targets)
	}
	return d.proveBySpeed(targets)
}

// proveBySpeed sets the speed of each disk's job to what libvirt begins it with, 0, no limit. QEMU executes
// block-job-set-speed only for a job that has not begun to end (JobVerbTable in job.c).
func (d *Domain) proveBySpeed(targets []string) error {
	for _, target := range targets {
		err := d.with(func(dom *libvirt.Domain) error { return dom.BlockJobSetSpeed(target, 0, 0) })
		if err != nil {
			return about(withKind(err, ErrNoJob), "prove that the backup job of disk %s of domain %s runs", target, d.name)
		}
	}
	return nil
}

// proveByStats compares the job's total with the size of the disks. libvirt adds up the disks of which it has not begun to
// end the job, and whose job QEMU lists (qemuBackupGetJobInfoStats). It changes their state in the same libvirt job in which
// it tells QEMU (qemuBackupJobCancelBlockjobs), and statistics wait for that, so that the total is too small from then
// until the backup is gone.
//
// What ends without libvirt (a block-job-cancel by QEMU's monitor, or by virDomainBlockJobAbort with the flag ASYNC) is
// missed until libvirt has the event.
func (d *Domain) proveByStats(targets []string) error {
	stats, err := d.JobStats()
	if err != nil {
		return about(err, "prove that the backup job of domain %s runs", d.name)
	}
	var want int64
	for _, target := range targets {
		capacity, _, err := d.Allocation(target)
		if err != nil {
			return about(err, "prove that the backup job of disk %s of domain %s runs", target, d.name)
		}
		want += capacity
	}
	if stats.Operation != "backup" || stats.TempTotal < want {
		err = &Error{Kind: ErrNoJob, Message: fmt.Sprintf("the job (%s) has %d bytes of %d", stats.Operation, stats.TempTotal, want)}
	}
	return about(err, "prove that the backup job of domain %s runs", d.name)
}
