package shutoff

import (
	"fmt"
	"os"
	"slices"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// RemoveBitmap removes a bitmap from an image, unless there may be no room for the others: all of
// them would be lost, those of other programs, too.
func RemoveBitmap(image qemuimg.Image, name string) error {
	if err := roomWithout(image, name); err != nil {
		return err
	}
	return fault.Around("remove bitmap", func() error { return qemuimg.RemoveBitmap(image.Path, name) })
}

// roomWithout returns an error if there may be no room for the other bitmaps of an image.
func roomWithout(image qemuimg.Image, name string) error {
	if image.QCOW2 == nil {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(image.QCOW2.Bitmaps), func(b qemuimg.Bitmap) bool { return b.Name == name || b.InUse })
	if len(others) == 0 {
		return nil // none that can be lost
	}
	return room(image, others)
}

// RoomFor returns an error if there may be no room for the bitmaps of an image and one more of that
// granularity, in bytes.
func RoomFor(image qemuimg.Image, granularity int64) error {
	return room(image, append(slices.Clone(image.QCOW2.Bitmaps), qemuimg.Bitmap{Granularity: granularity}))
}

// room returns an error if there may be no room for bitmaps. QEMU writes all that an image has
// again, to other places, when one is added or removed, and all are lost if that finds no space
// (qcow2_store_persistent_dirty_bitmaps).
func room(image qemuimg.Image, bitmaps []qemuimg.Bitmap) error {
	info, err := os.Stat(image.Path)
	if err != nil || !info.Mode().IsRegular() {
		return err // the size of a device is given
	}
	free, size, err := diskspace.Free(image.Path, os.Geteuid() == 0)
	if err != nil || size == 0 {
		return err
	}
	if need := bitmapBytes(image, bitmaps); free < need {
		return fmt.Errorf("the file system of %s has %s free, and the bitmaps may need %s", image.Path, bytesize.Text(free), bytesize.Text(need))
	}
	return nil
}

// bitmapBytes is the most that bitmaps take: a bit for each granule, in clusters, and a table of
// these (qcow2.txt, "Bitmaps"); and 1 MiB for the directory and refcounts.
func bitmapBytes(image qemuimg.Image, bitmaps []qemuimg.Bitmap) int64 {
	cluster := image.QCOW2.ClusterSize
	clusters := func(n, unit int64) int64 { return (n + unit - 1) / unit }
	need := int64(1 << 20)
	for _, b := range bitmaps {
		data := clusters(clusters(image.VirtualSize, b.Granularity), 8*cluster)
		need += (data + clusters(8*data, cluster)) * cluster
	}
	return need
}
