package shutoff

import (
	"context"
	"os"
	"time"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
)

// Layers is how many images of a chain, from the top one down, have the bitmap of a checkpoint,
// 0 if it does not show all that has changed: it must be in the top image, which is written to,
// and so on without a gap down to that which was on top when the checkpoint was made. All of
// them must be valid: one that was not stored has lost what it recorded. QEMU merges only bitmaps
// of the same size.
func Layers(chain []qemuimg.Image, name string) int {
	n := 0
	for ; n < len(chain); n++ {
		b, ok := chain[n].Bitmap(name)
		if !ok {
			break
		}
		if !b.Valid() || chain[n].VirtualSize != chain[0].VirtualSize {
			return 0
		}
	}
	for _, below := range chain[n:] {
		if _, ok := below.Bitmap(name); ok {
			return 0
		}
	}
	return n
}

// Granularity is the finest of a bitmap's in the first images of a chain, in bytes.
func Granularity(chain []qemuimg.Image, name string, layers int) int64 {
	var finest int64
	for _, image := range chain[:layers] {
		if b, _ := image.Bitmap(name); finest == 0 || b.Granularity < finest {
			finest = b.Granularity
		}
	}
	return finest
}

// lookTime bounds what a look at the images of a domain takes: some 50 ms a disk, more where the
// storage is slow.
const lookTime = 2 * time.Minute

// sizes measures bitmaps of the disks with these chains: wanted are their names, by target. A
// bitmap that cannot be used has no size.
func sizes(ctx context.Context, chains map[string][]qemuimg.Image, wanted map[string][]string) (map[string]map[string]int64, error) {
	daemon, err := storagedaemon.Start(ctx, os.DevNull, false) // nothing is exported: it needs no socket
	if err != nil {
		return nil, err
	}
	defer func() { _ = daemon.Close() }() // a reader
	all := map[string]map[string]int64{}
	for target, names := range wanted {
		chain := chains[target]
		disk, err := daemon.Open(ctx, target, chain, false)
		if err != nil {
			return nil, err
		}
		if all[target], err = sizesOf(ctx, disk, chain, names); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func sizesOf(ctx context.Context, disk *storagedaemon.Disk, chain []qemuimg.Image, names []string) (map[string]int64, error) {
	names, merged := usable(chain, names), map[string]string{}
	for _, name := range names {
		layers := Layers(chain, name)
		if layers == 1 {
			merged[name] = name
			continue
		}
		var err error
		if merged[name], err = disk.Merge(ctx, name, layers, Granularity(chain, name, layers)); err != nil {
			return nil, err
		}
	}
	bitmaps, err := disk.Bitmaps(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]int64{}
	for _, name := range names {
		for _, b := range bitmaps[0] {
			if b.Name == merged[name] && !b.Inconsistent {
				all[name] = b.Count
			}
		}
	}
	return all, nil
}

// usable are those of the names whose bitmap can be used.
func usable(chain []qemuimg.Image, names []string) (some []string) {
	for _, name := range names {
		if Layers(chain, name) > 0 {
			some = append(some, name)
		}
	}
	return some
}
