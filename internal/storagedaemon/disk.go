package storagedaemon

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// Disk is a disk that the daemon has opened: a chain of images.
type Disk struct {
	daemon *Daemon
	name   string
	depth  int // images of its chain
}

// Open opens a chain of images as [qemuimg.Chain] describes it, the top one first, each with
// exactly the backing file of the description; the top one for writing if writable is set.
// name is that of the disk: letters and digits. Other processes may read the images meanwhile,
// and none may write to them: a domain that uses them cannot start. The error is
// qemuimg.ErrLocked if one has them open for writing now.
func (d *Daemon) Open(ctx context.Context, name string, chain []qemuimg.Image, writable bool) (*Disk, error) {
	disk := &Disk{daemon: d, name: name, depth: len(chain)}
	for i := len(chain) - 1; i >= 0; i-- { // a backing file first
		if err := disk.add(ctx, i, chain[i], writable && i == 0); err != nil {
			return nil, fmt.Errorf("open image %s of disk %s: %w", chain[i].Path, name, d.explain(err))
		}
	}
	return disk, nil
}

// node is QEMU's name for image number i of the chain.
func (disk *Disk) node(i int) string { return disk.name + "-" + strconv.Itoa(i) }

// add adds the nodes of one image. O_DIRECT keeps the images of guests out of the host's page
// cache; some file systems do not have it.
func (disk *Disk) add(ctx context.Context, i int, image qemuimg.Image, writable bool) error {
	file, err := qemuimg.File(image.Path)
	if err != nil {
		return err
	}
	if image.Format == "raw" && !writable {
		// QEMU lets others write to a raw image that it only reads.
		if err := disk.daemon.excludeWriters(image.Path); err != nil {
			return err
		}
	}
	file["cache"] = map[string]any{"direct": true}
	err = disk.addNode(ctx, i, image, file, writable)
	var refused *QMPError
	if errors.As(err, &refused) && !errors.Is(err, qemuimg.ErrLocked) {
		delete(file, "cache")
		err = disk.addNode(ctx, i, image, file, writable)
	}
	return err
}

func (disk *Disk) addNode(ctx context.Context, i int, image qemuimg.Image, file map[string]any, writable bool) error {
	file["read-only"], file["discard"] = !writable, "unmap"
	node := map[string]any{"driver": image.Format, "node-name": disk.node(i), "file": file, "read-only": !writable, "discard": "unmap"}
	switch {
	case image.Format == "qcow2" && i+1 < disk.depth:
		node["backing"] = disk.node(i + 1)
	case image.Format == "qcow2":
		node["backing"] = nil
	}
	return disk.daemon.monitor.execute(ctx, "blockdev-add", node, nil)
}

// Bitmap is a dirty bitmap as QEMU has it in memory (BlockDirtyInfo in qapi/block-core.json).
type Bitmap struct {
	Name         string `json:"name"`
	Count        int64  `json:"count"` // dirty bytes
	Granularity  int64  `json:"granularity"`
	Recording    bool   `json:"recording"`
	Persistent   bool   `json:"persistent"`
	Inconsistent bool   `json:"inconsistent"`
}

// Bitmaps returns the bitmaps of each image of the chain, the top one first.
func (disk *Disk) Bitmaps(ctx context.Context) ([][]Bitmap, error) {
	var nodes []struct {
		Name    string   `json:"node-name"`
		Bitmaps []Bitmap `json:"dirty-bitmaps"`
	}
	if err := disk.daemon.monitor.execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return nil, disk.daemon.explain(err)
	}
	all := make([][]Bitmap, disk.depth)
	for _, n := range nodes {
		for i := range all {
			if n.Name == disk.node(i) {
				all[i] = n.Bitmaps
			}
		}
	}
	return all, nil
}

// Merge makes a bitmap, of the name that is returned, of all bitmaps of one name in the first
// images of the chain: an external snapshot of a running domain leaves one of the same name in the
// overlay and in the image below it, each with what changed while that image was on top. qemu-nbd
// -B would show only that of the top one.
func (disk *Disk) Merge(ctx context.Context, name string, images int, granularity int64) (string, error) {
	merged := "virtbackup-" + name
	err := disk.daemon.monitor.execute(ctx, "block-dirty-bitmap-add", map[string]any{
		"node": disk.node(0), "name": merged, "granularity": granularity, "persistent": false, "disabled": true}, nil)
	if err == nil {
		var parts []map[string]any
		for i := range images {
			parts = append(parts, map[string]any{"node": disk.node(i), "name": name})
		}
		err = disk.daemon.monitor.execute(ctx, "block-dirty-bitmap-merge", map[string]any{
			"node": disk.node(0), "target": merged, "bitmaps": parts}, nil)
	}
	if err != nil {
		return "", fmt.Errorf("bitmap %s of disk %s: %w", name, disk.name, disk.daemon.explain(err))
	}
	return merged, nil
}

// Export serves the disk under its name; bitmap is that of [Disk.Merge], or "". Its NBD context is
// qemu:dirty-bitmap:NAME. A writable one takes writes, zeros and discards.
func (disk *Disk) Export(ctx context.Context, bitmap string, writable bool) error {
	d := disk.daemon
	if err := d.listen(ctx); err != nil {
		return err
	}
	export := map[string]any{"type": "nbd", "id": disk.name, "node-name": disk.node(0), "name": disk.name, "writable": writable}
	if bitmap != "" {
		export["bitmaps"] = []string{bitmap}
	}
	if err := d.monitor.execute(ctx, "block-export-add", export, nil); err != nil {
		return fmt.Errorf("export disk %s: %w", disk.name, d.explain(err))
	}
	return nil
}

// listen starts the NBD server with the first export.
func (d *Daemon) listen(ctx context.Context) (err error) {
	d.exported.Do(func() {
		err = d.monitor.execute(ctx, "nbd-server-start", map[string]any{
			"addr": map[string]any{"type": "unix", "data": map[string]any{"path": d.socket}}}, nil)
	})
	if err != nil {
		return fmt.Errorf("serve at %s: %w", d.socket, d.explain(err))
	}
	return nil
}
