package shutoff

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// RunningOnlyError says why a disk can be read only while its domain runs.
type RunningOnlyError struct{ Domain, Target, Why string }

// Error names the disk.
func (e *RunningOnlyError) Error() string {
	return fmt.Sprintf("disk %s of domain %s can be read only while the domain runs: %s", e.Target, e.Domain, e.Why)
}

// Hint says how it can be backed up.
func (e *RunningOnlyError) Hint() string {
	return fmt.Sprintf("virsh start --paused %s starts it without running its guest; --exclude %s leaves the disk out", manifest.ShellWord(e.Domain), e.Target)
}

// Unwrap makes it a hypervisor.ErrNotRunning.
func (e *RunningOnlyError) Unwrap() error { return hypervisor.ErrNotRunning }

// Images describes the images of a disk as QEMU would open them at the next start of the
// domain, the top one first. Without force it fails with qemuimg.ErrLocked if another process
// has one of them open for writing. The error is a *RunningOnlyError where that would be more
// than files and block devices of this host, or where a reader of the files alone would have
// to guess, and an *UnusableError where the top image is none.
func Images(ctx context.Context, d guest.Domain, disk xml.Disk, force bool) ([]qemuimg.Image, error) {
	only := func(format string, args ...any) error {
		return &RunningOnlyError{d.Name(), disk.Target, fmt.Sprintf(format, args...)}
	}
	path, why, err := pathOf(d, disk)
	if why != "" {
		err = only("%s", why)
	}
	if err != nil {
		return nil, err
	}
	chain, err := qemuimg.Chain(ctx, path, disk.Format, force)
	if err != nil {
		return nil, unreadable(d, disk, path, err)
	}
	chain[0].Path = path // qemu-img's name for it may have a prefix
	for i, image := range chain {
		why, err := unfit(image)
		switch {
		case err != nil:
			return nil, fmt.Errorf("disk %s of domain %s: %w", disk.Target, d.Name(), err)
		case why != "":
			return nil, only("%s", why)
		case i > 0 && image.Format != chain[i-1].BackingFormat:
			return nil, only("image %s does not record the format of its backing file, which is not guessed from content that a guest may have written: "+
				"qemu-img rebase -u -b BACKING -F FORMAT records it", chain[i-1].Path)
		}
	}
	if why := disagreement(disk, chain); why != "" {
		return nil, only("%s", why)
	}
	return chain, nil
}

// pathOf returns the path of a disk's top image; why says why it is not one.
func pathOf(d guest.Domain, disk xml.Disk) (path, why string, err error) {
	switch {
	case disk.Encrypted:
		return "", "it is encrypted, and only QEMU has the key", nil
	case disk.Special != "":
		return "", fmt.Sprintf("its XML has <%s>", disk.Special), nil
	case disk.Format != "raw" && disk.Format != "qcow2":
		return "", fmt.Sprintf("its format is %s", disk.Format), nil
	}
	switch disk.SourceType {
	case "file", "block":
		path = disk.Source
	case "volume":
		pool, volume, _ := strings.Cut(disk.Source, "/")
		if path, err = d.VolumePath(pool, volume); err != nil {
			return "", "", fmt.Errorf("disk %s of domain %s: %w", disk.Target, d.Name(), err)
		}
	default:
		return "", fmt.Sprintf("its source is of the type %s", disk.SourceType), nil
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Sprintf("its source, %s, is no file of this host", path), nil
	}
	return path, "", nil
}

// unfit says why an image of a chain cannot be read, "" if it can.
func unfit(image qemuimg.Image) (why string, err error) {
	switch {
	case image.Format != "raw" && image.Format != "qcow2":
		return fmt.Sprintf("the format of image %s is %s", image.Path, image.Format), nil
	case image.Encrypted:
		return fmt.Sprintf("image %s is encrypted, and only QEMU has the key", image.Path), nil
	case image.QCOW2 != nil && image.QCOW2.Corrupt:
		return "", fmt.Errorf("image %s is marked as corrupt: qemu-img check -r all %s", image.Path, manifest.ShellWord(image.Path))
	}
	if image.QCOW2 != nil && image.QCOW2.DataFile != "" && !filepath.IsAbs(image.QCOW2.DataFile) {
		return fmt.Sprintf("image %s names its data file by the relative path %s, which QEMU's programs look for in the directory that they are started in", image.Path, image.QCOW2.DataFile), nil
	}
	for _, path := range Files(image) {
		if !filepath.IsAbs(path) {
			return fmt.Sprintf("its chain of images has %s, which is no file of this host", path), nil
		}
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if mode := info.Mode(); !mode.IsRegular() && mode&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
			return fmt.Sprintf("%s is neither a file nor a block device", path), nil
		}
	}
	return "", nil
}

// Files are the paths of an image: itself, and its external data file if it has one.
func Files(image qemuimg.Image) []string {
	paths := []string{image.Path}
	if image.QCOW2 == nil || image.QCOW2.DataFile == "" {
		return paths
	}
	data := image.QCOW2.DataFile
	if !filepath.IsAbs(data) && !strings.Contains(data, ":") {
		data = filepath.Join(filepath.Dir(image.Path), data)
	}
	return append(paths, data)
}

// disagreement says where the XML of a disk names other backing files than the headers of its
// images, "" if it does not. libvirt gives QEMU those of the XML, and looks into the headers only
// behind the last one.
func disagreement(disk xml.Disk, chain []qemuimg.Image) string {
	for i, path := range disk.Backing {
		switch {
		case i+1 >= len(chain):
			return fmt.Sprintf("its XML has the backing file %s, and image %s has none", path, chain[i].Path)
		case !sameFile(path, chain[i+1].Path):
			return fmt.Sprintf("its XML has the backing file %s, and image %s has %s", path, chain[i].Path, chain[i+1].Path)
		case disk.BackingFormats[i] != "" && disk.BackingFormats[i] != chain[i+1].Format:
			return fmt.Sprintf("its XML says that %s is %s, and image %s says %s", path, disk.BackingFormats[i], chain[i].Path, chain[i+1].Format)
		}
	}
	if last := len(disk.Backing); disk.BackingEnds && last+1 < len(chain) {
		return fmt.Sprintf("its XML says that %s has no backing file, and it has %s", chain[last].Path, chain[last+1].Path)
	}
	return ""
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}
