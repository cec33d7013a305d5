package restore

import (
	"context"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// checkSpace refuses images that will not fit, before anything is copied. What is compressed,
// by us or by the file system, may fit all the same, so that is only a warning.
func (r *restorer) checkSpace(ctx context.Context) error {
	free, size, err := diskspace.Free(r.Dir, os.Geteuid() == 0)
	if err != nil || size == 0 { // some file systems do not report free space
		return err
	}
	need, err := r.need(ctx, free)
	if err != nil || need <= free {
		return err
	}
	short := fmt.Sprintf("%s has too little space: it needs about %s and has %s", r.Dir, bytesize.Text(need), bytesize.Text(free))
	if r.Zstd != 0 || mayCompress(r.Dir) {
		r.point.Warn(short + "; compression may make it fit")
		return nil
	}
	return fail.Errorf(fail.Other, "free space there, or name a directory on another file system", "%s (%s are missing)", short, bytesize.Text(need-free))
}

// mayCompress tells whether the file system of a directory is one of those that compress, if
// they are told to.
func mayCompress(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && slices.Contains([]uint32{unix.BTRFS_SUPER_MAGIC, 0x2fc12fc1 /* ZFS */, 0xca451a4e /* bcachefs */}, uint32(s.Type))
}

// need is how many bytes all images take. What the manifests say of the chains is an upper
// bound; where that is more than is free, the chains' tables are read.
func (r *restorer) need(ctx context.Context, free int64) (need int64, err error) {
	for _, d := range r.point.Disks() {
		need += r.takes(d, r.atMost(d))
	}
	if need <= free || r.allocatesAll() {
		return need, nil
	}
	need = 0
	for _, d := range r.point.Disks() {
		content, err := r.content(ctx, d)
		if err != nil {
			return 0, err
		}
		need += r.takes(d, content)
	}
	return need, nil
}

// allocatesAll tells whether images take the space of whole disks.
func (r *restorer) allocatesAll() bool {
	return r.Preallocation == PreallocateFalloc || r.Preallocation == PreallocateFull
}

// takes is how many bytes an image of a disk takes.
func (r *restorer) takes(d manifest.Disk, content qcow2.Content) int64 {
	o := qcow2.Options{VirtualSize: d.VirtualSize}
	if r.allocatesAll() {
		content = wholeDisk(d)
	}
	if r.Format.of(d) == Raw {
		return min(d.VirtualSize, content.Clusters*imageCluster)
	}
	return o.FileBytes(content)
}

const (
	imageCluster = 64 << 10                        // bytes, of the images that we make
	tableCovers  = imageCluster / 8 * imageCluster // bytes of a disk that one L2 table describes
)

func wholeDisk(d manifest.Disk) qcow2.Content {
	return qcow2.Content{Clusters: (d.VirtualSize + imageCluster - 1) / imageCluster, Tables: (d.VirtualSize + tableCovers - 1) / tableCovers}
}

// atMost is what an image of a disk holds at most.
func (r *restorer) atMost(d manifest.Disk) qcow2.Content {
	all := wholeDisk(d)
	all.Clusters = min(all.Clusters, (r.point.AtMost(d.Target)+imageCluster-1)/imageCluster)
	all.Tables = min(all.Tables, all.Clusters)
	return all
}

// content is what an image of a disk holds.
func (r *restorer) content(ctx context.Context, d manifest.Disk) (c qcow2.Content, err error) {
	images, closeImages, err := r.point.OpenDisk(ctx, d.Target)
	if err != nil {
		return c, err
	}
	defer closeImages()
	for i := range images.Windows() {
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		w, err := images.Window(i)
		if err != nil {
			return c, err
		}
		if n := dataOf(w); n > 0 {
			c.Clusters, c.Tables = c.Clusters+n*images.ClusterSize()/imageCluster, c.Tables+1
		}
	}
	return c, nil
}

// dataOf is how many clusters of a window have data.
func dataOf(w *chain.Window) (n int64) {
	if w == nil {
		return 0
	}
	for k := 0; k < w.Len(); {
		end, state := w.Run(k)
		if state == chain.Data {
			n += int64(end - k)
		}
		k = end
	}
	return n
}
