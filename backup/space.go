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

// size is the sum of the sizes of all disks that are copied, in bytes.
func (p *Plan) size() (n int64) {
	for _, d := range p.Disks {
		n += d.Size
	}
	return n
}

// need is how many bytes the point will take in the repository, as far as that is known
// beforehand. data returns how many bytes of a disk will be copied, or a negative number if
// that is unknown.
func (p *Plan) need(data func(DiskPlan) int64) (n int64) {
	for _, d := range p.Disks {
		if bytes := data(d); bytes >= 0 {
			n += d.takes(bytes)
		}
	}
	return n
}

// bytes returns data of each disk, by target.
func (p *Plan) bytes(data func(DiskPlan) int64) map[string]int64 {
	all := map[string]int64{}
	for _, d := range p.Disks {
		all[d.Target] = data(d)
	}
	return all
}

// expected is libvirt's estimate for a disk. For a rescan it is unknown until the disk has
// been compared with its parent.
func (d DiskPlan) expected() int64 {
	if d.Rescan {
		return -1
	}
	return d.Expected
}

// least is written, but 0 for an incremental: all dirty clusters may be zeros.
func (r *run) least(d DiskPlan) int64 {
	if d.Incremental {
		return 0
	}
	return r.written(d)
}

// takes is how many bytes an image of 64 KiB clusters with that much data takes, with its
// hash list.
func (d DiskPlan) takes(data int64) int64 { return data + metadata(data, d.zeros, d.Size) }

// imageCluster is the size of our images' clusters in bytes, package qcow2's own.
const imageCluster = 64 << 10

// metadata is how many bytes an image and its hash list take besides the data: the L2
// tables that data or zeros need (one for 512 MiB), 2 bytes of refcount for each cluster,
// four clusters for the rest, and the hash list of all that.
func metadata(data, zeros, size int64) int64 {
	const covered = 512 << 20
	clusters := (data + imageCluster - 1) / imageCluster
	tables := min(clusters+(zeros+imageCluster-1)/imageCluster, (size+covered-1)/covered)
	image := (4+tables)*imageCluster + 2*clusters
	return image + hashlist.FileSize(data+image)
}

// checkSpace refuses a point that will not fit, before the job begins to slow down the
// guest. An incremental that seems too large is measured once the job has begun, which
// shows which dirty clusters are zeros.
func (r *run) checkSpace(context.Context) error {
	if err := r.source.CheckSpace(r.plan.size()); err != nil {
		return err
	}
	room, err := r.room()
	if err != nil {
		return err
	}
	r.need = r.plan.need(DiskPlan.expected)
	r.meter.Expect(r.plan.bytes(DiskPlan.expected))
	if room.fits(r.need) {
		return nil
	}
	// The allocation of an image includes space that is only reserved.
	r.need = r.plan.need(r.written)
	r.meter.Expect(r.plan.bytes(r.written))
	if room.fits(r.need) {
		return nil
	}
	if lowest := r.plan.need(r.least); lowest < r.need && room.fits(lowest) {
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
	if kept := r.source.Room(r.Repository, r.plan.size()); kept.Shared {
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
		n += d.takes(r.meter.Most(d.Target, d.Size))
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
