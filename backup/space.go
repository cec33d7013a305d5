package backup

import (
	"context"
	"fmt"
	"os"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/source"
)

// least is written, but 0 for an incremental: all dirty clusters may be zeros.
func (r *run) least(d plan.Disk) int64 {
	if d.Incremental {
		return 0
	}
	return r.written(d)
}

// checkSpace refuses a point that will not fit, before the job begins to slow down the
// guest. An incremental that seems too large is measured once the job has begun, which
// shows which dirty clusters are zeros.
func (r *run) checkSpace(context.Context) error {
	if err := r.source.CheckSpace(r.plan.Size()); err != nil {
		return err
	}
	room, err := r.room()
	if err != nil {
		return err
	}
	r.need = r.plan.Need(plan.Disk.Estimate)
	r.meter.Expect(r.plan.Bytes(plan.Disk.Estimate))
	if room.fits(r.need) {
		return nil
	}
	// The allocation of an image includes space that is only reserved.
	r.need = r.plan.Need(r.written)
	r.meter.Expect(r.plan.Bytes(r.written))
	if room.fits(r.need) {
		return nil
	}
	if lowest := r.plan.Need(r.least); lowest < r.need && room.fits(lowest) {
		r.doubtful = true
		return nil
	}
	return r.tooSmall(room)
}

// tooSmall returns the error for a point that does not fit. With compression it only warns.
func (r *run) tooSmall(room room) error {
	beside := ""
	if room.reserve > 0 {
		beside = fmt.Sprintf(" besides %s for the scratch files, which are on the same file system", bytesize.Text(room.reserve))
	}
	short := fmt.Sprintf("the repository at %s has too little space for %s of domain %s: it needs about %s and has %s%s",
		r.Repository, r.plan.ID, r.Domain, bytesize.Text(r.need), bytesize.Text(room.free), beside)
	if r.Zstd != 0 {
		r.warn("%s; compression may make it fit", short)
		return nil
	}
	hint := "free space there, use another repository (--repo), or try --compress zstd"
	if r.need <= room.free+room.reserve {
		hint = "name a directory on another file system for the scratch files (--scratch-dir), " + hint
	}
	return source.Ended(hint, "%s (%s are missing)", short, bytesize.Text(r.need-room.free))
}

// room is the space for a point on the repository's file system, in bytes.
type room struct {
	known   bool  // some file systems do not report free space
	free    int64 // without reserve
	reserve int64 // kept for scratch files on the same file system
}

func (r room) fits(need int64) bool { return !r.known || need <= r.free }

func (r *run) room() (room, error) {
	free, size, err := diskspace.Free(r.Repository, os.Geteuid() == 0)
	if err != nil || size == 0 {
		return room{}, err
	}
	all := room{known: true, free: free}
	if kept := r.source.Room(r.Repository, r.plan.Size()); kept.Shared {
		all.keep(kept.Reserve, kept.Free)
	}
	return all, nil
}

// keep subtracts the reserve for the scratch files. free is what is free for them; a quota
// may leave the repository less.
func (r *room) keep(reserve, free int64) {
	r.reserve = reserve
	r.free = max(0, min(r.free, free-reserve))
}

// willTake is the maximum of bytes that the point takes when the copy is done. If more of a
// disk was copied than expected, all of it may be copied.
func (r *run) willTake() (n int64) {
	for _, d := range r.plan.Disks {
		n += d.Takes(r.meter.Most(d.Target, d.Size))
	}
	return n
}

// explainFull adds the missing space to the error of a full file system.
func (r *run) explainFull(err error) error {
	_, copied := r.meter.Read()
	missing := "how much is missing is unknown"
	switch left := r.need - copied; {
	case left > 0 && r.Zstd != 0:
		missing = fmt.Sprintf("at most about %s are missing", bytesize.Text(left))
	case left > 0:
		missing = fmt.Sprintf("about %s are missing", bytesize.Text(left))
	}
	return fail.WithHint(fmt.Errorf("the repository at %s is full after %s of about %s, %s: %w", r.Repository, bytesize.Text(copied), bytesize.Text(r.need), missing, err),
		"free space there, or use another repository (--repo); what this run had written is removed")
}

// written is like expected, but counts only what has been written to an image on this host
// that is copied in full: space that is only reserved (preallocation=falloc, fallocate(2))
// reads as zeros and is not copied.
func (r *run) written(d plan.Disk) int64 {
	if d.Incremental || d.Rescan || d.SourceType != "file" {
		return d.Estimate()
	}
	n, ok := r.source.Written(d.Disk)
	if !ok {
		return d.Expected
	}
	return min(d.Expected, n)
}
