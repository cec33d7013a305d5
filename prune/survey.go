package prune

import (
	"context"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/merge"
)

// newPlan is a plan without disks.
func (r *run) newPlan(s state, c chainRun) mergePlan {
	p := mergePlan{chainRun: c}
	if parent, ok := s.Point(c.lowest().Parent); ok {
		p.parent = &parent
	}
	return p
}

// survey makes the plan of a rewrite from the tables of its images.
func (r *run) survey(ctx context.Context, s state, c chainRun) (mergePlan, merge.Census, error) {
	p := r.newPlan(s, c)
	var sum merge.Census
	disks, err := r.disks(s, c)
	if err != nil {
		return p, sum, err
	}
	p.disks = disks
	for i, d := range disks {
		if d.kept {
			continue
		}
		found, err := merge.Survey(ctx, d.Run, r.mergeOptions(nil))
		if err != nil {
			return p, sum, err
		}
		disks[i].live = found.Kept
		sum.Total, sum.Kept = sum.Total+found.Total, sum.Kept+found.Kept
		p.need += found.Need
	}
	return p, sum, nil
}

func (r *run) mergeOptions(progress func(int64)) merge.Options {
	return merge.Options{Warn: r.warnOnce, Limits: r.Limits, Progress: progress}
}

// free is what the repository's file system has, in bytes; some do not say.
func (r *run) free() (free int64, known bool, err error) {
	free, size, err := diskspace.Free(r.repo.Dir(), os.Geteuid() == 0)
	return free, size > 0, err
}

// allocated is how many bytes of the file system are freed when a directory is removed:
// those of its files that are not shared with others. What cannot be read counts as none.
func allocated(dir string) (n int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		n += allocatedFile(filepath.Join(dir, e.Name()))
	}
	return n
}

// allocatedFile is that of one file.
func allocatedFile(path string) int64 {
	n, _ := localfile.Exclusive(path)
	return n
}
