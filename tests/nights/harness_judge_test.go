package nights

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// compare compares a point, its chain opened by its path, with the truth. The judge is
// qemu-img; the size is read from the header, as qemu-img takes what is missing for zeros.
func compare(p pointOnDisk, truths map[string]truth) error {
	if len(p.Disks) != len(truths) {
		return fmt.Errorf("%s has %d disks, not %d", p.ID, len(p.Disks), len(truths))
	}
	for _, d := range p.Disks {
		t, ok := truths[d.Target]
		if !ok {
			return fmt.Errorf("%s has a disk %s, which the domain had not", p.ID, d.Target)
		}
		image := filepath.Join(p.dir, d.Image)
		if size, err := virtualSize(image); err != nil || size != t.size {
			return fmt.Errorf("%s has %d bytes, not %d: %v", image, size, t.size, err)
		}
		if err := tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, t.file); err != nil {
			return err
		}
	}
	return nil
}

// virtualSize is the size of the disk that a qcow2 image holds.
func virtualSize(image string) (int64, error) { return headerField(image, 24) }

// headerField reads 8 bytes of the header of a qcow2 image (docs/interop/qcow2.txt).
func headerField(image string, at int64) (int64, error) {
	f, err := os.Open(image)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, 8)
	_, err = f.ReadAt(b, at)
	return int64(binary.BigEndian.Uint64(b)), err
}

// check lets qemu-img check the structure of a point's images.
func check(p pointOnDisk) error {
	for _, d := range p.Disks {
		if err := tool("qemu-img", "check", "-q", "-f", "qcow2", filepath.Join(p.dir, d.Image)); err != nil {
			return err
		}
	}
	return nil
}

// compareRestored compares restored raw images with the truth.
func compareRestored(dir string, truths map[string]truth) error {
	for target, t := range truths {
		if err := tool("cmp", filepath.Join(dir, target+".raw"), t.file); err != nil {
			return err
		}
	}
	return nil
}

func tool(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
