package inplace

import (
	"context"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// checkSpace sees that there is room for what will be written, before anything is. Only where
// there is none for all of it, it is found out how much of it has its space already.
func (r *run) checkSpace(ctx context.Context) error {
	needs := map[string]int64{} // by directory, all disks of one file system in one of them
	for _, d := range r.toWrite() {
		if d.device {
			continue
		}
		dir := sameFileSystem(needs, filepath.Dir(d.Path))
		need, err := d.needs(nil)
		if err != nil {
			return err
		}
		free, size, err := diskspace.Free(dir, os.Geteuid() == 0)
		if err != nil || size == 0 { // some file systems do not report their free space
			continue
		}
		if needs[dir]+need > free {
			if need, err = r.needsExactly(ctx, d); err != nil {
				return err
			}
		}
		if needs[dir] += need; needs[dir] > free {
			return fail.Errorf(fail.Other, "free space there; or --define --to DIR on another file system",
				"%s has too little space: disk %s takes about %s more than now, and %s are free", dir, d.Target, bytesize.Text(needs[dir]), bytesize.Text(free))
		}
	}
	return nil
}

// sameFileSystem is the directory among those that are known that shares its file system with
// dir, or dir.
func sameFileSystem(known map[string]int64, dir string) string {
	for other := range known {
		if diskspace.Shared(other, dir) {
			return other
		}
	}
	return dir
}

// needs is the space that what will be written takes, in bytes, but for the clusters that have
// their space already; nil: none has.
func (d *disk) needs(have func(cluster int64) bool) (need int64, err error) {
	perWindow := d.chain.WindowSize() / d.cluster()
	for k := d.differs.Next(0); k >= 0; k = d.differs.Next(k + 1) {
		w, err := d.chain.Window(k / perWindow)
		if err != nil {
			return 0, err
		}
		if w == nil {
			k = (k/perWindow+1)*perWindow - 1
			continue
		}
		if w.State(int(k%perWindow)) == chain.Data && (have == nil || !have(k)) {
			need += d.cluster()
		}
	}
	return need, nil
}

// needsExactly asks QEMU what has its space already. What an internal snapshot shares does not.
func (r *run) needsExactly(ctx context.Context, d *disk) (int64, error) {
	if q := d.images[0].QCOW2; q != nil && q.Snapshots > 0 {
		return d.needs(nil)
	}
	var have marker
	have.cluster, have.differs = d.cluster(), &d.allocated
	err := qemuimg.Allocated(ctx, d.Path, d.Format, func(offset, length int64) {
		// Clusters that have only a part of their space count as without.
		first := (offset + d.cluster() - 1) / d.cluster() * d.cluster()
		if whole := (offset + length - first) / d.cluster() * d.cluster(); whole > 0 {
			_ = have.Zero(first, whole) // never fails
		}
	})
	if err != nil {
		return 0, err
	}
	need, err := d.needs(d.allocated.Has)
	// What is reserved (preallocation=falloc) is not allocated for QEMU, but takes no more space.
	return min(need, max(0, d.then.VirtualSize-d.images[0].ActualSize)), err
}
