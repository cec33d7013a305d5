package flatten

import (
	"bytes"
	"context"
	"fmt"

	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Disk is a disk as it is now, with the bitmap of what has changed since an older
// state of it. *nbdcopy.Export is one.
type Disk interface {
	// Size is the size of the disk in bytes.
	Size() int64
	// CleanClusters tells which clusters between two offsets no bit of the bitmap
	// touches. start is at a cluster boundary, end too, or at the end of the disk.
	CleanClusters(ctx context.Context, start, end, cluster int64) ([]bool, error)
	// ReadAt fills p with what the disk holds from offset on.
	ReadAt(ctx context.Context, p []byte, offset int64) error
}

// TailChanged finds out whether the disk was shrunk and grown again since its
// bitmap began: what that cuts off reads as zeros, and no bitmap has it. old is
// what the disk held then.
//
//	old          |dddd....dddddddd|
//	bitmap       |   x           x|
//	looked at    |              ^ |
//
// One cluster tells: the last one that held data then and is clean. If the disk
// was cut anywhere before the end of it, it has changed, although it is clean.
// If the disk was cut behind it, what that cut off was zeros, or is dirty. The
// offset of the cluster is returned; it costs one look at the bitmap, mostly, and
// one read.
func TailChanged(ctx context.Context, old *chain.Chain, disk Disk) (offset int64, changed bool, err error) {
	for i := old.Windows() - 1; i >= 0; i-- {
		w, err := old.Window(i)
		if err != nil {
			return 0, false, err
		}
		if w == nil || w.Offset >= disk.Size() {
			continue
		}
		end := min(w.At(w.Len()), old.Size(), disk.Size())
		clean, err := disk.CleanClusters(ctx, w.Offset, end, old.ClusterSize())
		if err != nil {
			return 0, false, err
		}
		for k := len(clean) - 1; k >= 0; k-- {
			if clean[k] && w.State(k) == chain.Data {
				changed, err := differs(ctx, old, disk, w.At(k))
				return w.At(k), changed, err
			}
		}
	}
	return 0, false, nil
}

// differs reads a cluster of the disk and compares it with what it was, as far as
// the disk reached then: what it has grown by counts as dirty anyway.
func differs(ctx context.Context, old *chain.Chain, disk Disk, offset int64) (bool, error) {
	want := make([]byte, old.ClusterSize())
	if err := old.NewReader().Read(want, []int64{offset}); err != nil {
		return false, err
	}
	want = want[:min(int64(len(want)), min(old.Size(), disk.Size())-offset)]
	have := make([]byte, len(want))
	if err := disk.ReadAt(ctx, have, offset); err != nil {
		return false, fmt.Errorf("look for a change at the end of the disk: %w", err)
	}
	return !bytes.Equal(have, want), nil
}
