package backup

import (
	"context"
	"fmt"
	"os"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/source"
)

// size is that of all disks that are copied, in bytes.
func (p *Plan) size() (n int64) {
	for _, d := range p.Disks {
		n += d.Size
	}
	return n
}

// need is how many bytes the point will take in the repository, as far as that
// is known beforehand. data says how many bytes of a disk will be copied, or a
// negative number if nobody knows.
func (p *Plan) need(data func(DiskPlan) int64) (n int64) {
	for _, d := range p.Disks {
		if bytes := data(d); bytes >= 0 {
			n += d.takes(bytes)
		}
	}
	return n
}

// expected is what libvirt says of a disk. How much of one differs from its
// parent nobody knows before it is compared.
func (d DiskPlan) expected() int64 {
	if d.Rescan {
		return -1
	}
	return d.Expected
}

// least is written, but for an incremental nothing: all that is dirty may be
// zeros.
func (r *run) least(d DiskPlan) int64 {
	if d.Incremental {
		return 0
	}
	return r.written(d)
}

// takes is how many bytes an image of 64 KiB clusters and its hash list take with
// that many bytes of data.
func (d DiskPlan) takes(data int64) int64 { return data + metadata(data, d.zeros, d.Size) }

// imageCluster is the size of our images' clusters in bytes, package qcow2's own.
const imageCluster = 64 << 10

// metadata is how many bytes an image and its hash list take besides the data: L2
// tables as far as they are touched, by data or zeros (one for 512 MiB), 2 bytes
// of refcount for each cluster, and four clusters for the rest; then the hash list
// of all that.
func metadata(data, zeros, size int64) int64 {
	const covered = 512 << 20
	clusters := (data + imageCluster - 1) / imageCluster
	tables := min(clusters+(zeros+imageCluster-1)/imageCluster, (size+covered-1)/covered)
	image := (4+tables)*imageCluster + 2*clusters
	return image + hashlist.FileSize(data+image)
}

// checkSpace refuses, before a job begins, what will not fit: the guest should
// not pay for a backup that fails in the end. Whether an incremental that looks
// too large is so the job will show, where its zeros can be told from data.
func (r *run) checkSpace(context.Context) error {
	if err := r.source.CheckSpace(r.plan.size()); err != nil {
		return err
	}
	room, err := r.room()
	if err != nil {
		return err
	}
	r.need = r.plan.need(DiskPlan.expected)
	r.meter.expect(r.plan.Disks, DiskPlan.expected)
	if room.fits(r.need) {
		return nil
	}
	// The allocation of an image counts what is reserved for it, too.
	r.need = r.plan.need(r.written)
	r.meter.expect(r.plan.Disks, r.written)
	if room.fits(r.need) {
		return nil
	}
	if lowest := r.plan.need(r.least); lowest < r.need && room.fits(lowest) {
		r.doubtful = true
		return nil
	}
	return r.tooSmall(room)
}

// tooSmall is the error of a point that does not fit. With compression it is a
// warning.
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

// room is what the repository's file system has for a point, in bytes.
type room struct {
	known   bool  // some file systems do not say what they have
	free    int64 // without reserve
	reserve int64 // kept for scratch files that are on the same file system
}

func (r room) fits(need int64) bool { return !r.known || need <= r.free }

func (r *run) room() (room, error) {
	free, size, err := diskspace.Free(r.Repository, os.Geteuid() == 0)
	if err != nil || size == 0 {
		return room{}, err
	}
	all := room{known: true, free: free}
	if kept := r.source.Room(r.Repository, r.plan.size()); kept.Shared {
		all.keep(kept.Reserve, kept.Free)
	}
	return all, nil
}

// keep leaves a reserve to the scratch files, where that many bytes are free for them. A
// quota may leave the repository less.
func (r *room) keep(reserve, free int64) {
	r.reserve = reserve
	r.free = max(0, min(r.free, free-reserve))
}

// willTake is how many bytes the point takes at most, when the copy is done. A
// disk of which more was copied than expected may be copied as a whole.
func (r *run) willTake() (n int64) {
	for _, d := range r.plan.Disks {
		n += d.takes(r.meter.most(d))
	}
	return n
}

// explainFull adds to an error of a full file system how much is missing.
func (r *run) explainFull(err error) error {
	_, copied := r.meter.read()
	missing := "how much is missing nobody knows"
	switch left := r.need - copied; {
	case left > 0 && r.Zstd != 0:
		missing = fmt.Sprintf("at most about %s are missing", bytesize.Text(left))
	case left > 0:
		missing = fmt.Sprintf("about %s are missing", bytesize.Text(left))
	}
	return fail.WithHint(fmt.Errorf("the repository at %s is full after %s of about %s, %s: %w", r.Repository, bytesize.Text(copied), bytesize.Text(r.need), missing, err),
		"free space there, or use another repository (--repo); what this run had written is removed")
}

// written is expected, but for an image on this host that is copied in full what
// has been written to it: space that is only reserved (preallocation=falloc,
// fallocate(2)) reads as zeros and is not copied.
func (r *run) written(d DiskPlan) int64 {
	if d.Incremental || d.Rescan || d.SourceType != "file" {
		return d.expected()
	}
	n, ok := r.source.Written(d.Disk)
	if !ok {
		return d.Expected
	}
	return min(d.Expected, n)
}
