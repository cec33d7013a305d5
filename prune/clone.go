package prune

import (
	"context"
	"os"
	"syscall"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/merge"
)

// planClone makes the plan of a merge that shares what does not change with the lowest image
// of each disk. It costs what the images above them cost, so it is done at once. clone is
// false where it cannot be done, or where a rewrite frees more.
func (r *run) planClone(ctx context.Context, s state, c chainRun) (mergePlan, error) {
	p := r.newPlan(s, c)
	if !r.able.reflink {
		return p, nil
	}
	var err error
	if p.disks, err = r.disks(s, c); err != nil {
		return p, err
	}
	for i, d := range p.disks {
		if d.kept {
			continue
		}
		if merge.CanClone(d.Links) != "" {
			return p, nil
		}
		if stale, err := r.isStale(ctx, d); err != nil || stale {
			return p, err
		}
		need, err := merge.CloneNeed(ctx, d.Run, r.mergeOptions(nil))
		if err != nil {
			return p, err
		}
		for _, link := range d.Links[1:] {
			p.disks[i].live += link.Disk.DataBytes
		}
		p.need += need
	}
	p.clone = true
	return p, nil
}

// isStale tells whether a clone would keep more superseded data than a rewrite may leave.
// Frames of compressed clusters share clusters of the file, of which none is free as long as
// one of its frames is in use; other images have no such data.
func (r *run) isStale(ctx context.Context, d diskRun) (bool, error) {
	lowest := d.Links[0]
	compressed, err := diskimage.Compressed(lowest)
	if err != nil || !compressed {
		return false, err
	}
	now, err := merge.Survey(ctx, merge.Run{Links: d.Links[:1], Below: d.Below}, r.mergeOptions(nil))
	if err != nil {
		return false, err
	}
	then, err := merge.Survey(ctx, d.Run, r.mergeOptions(nil))
	if err != nil {
		return false, err
	}
	superseded := max(0, fileBlocks(lowest.Path)-now.Need) + then.Total - then.Kept
	return superseded > then.Kept/garbageShare, nil
}

// fileBlocks is how many bytes a file has on its file system, shared or not.
func fileBlocks(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
