package shutoff

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/xml"
)

// UnusableError says that a disk's image is not there, or is no image. Its domain does not start
// either.
type UnusableError struct {
	Domain, Target, Path string
	Format               string // that it does not have; "" if it is not there
}

// Error names the disk and its image.
func (e *UnusableError) Error() string {
	what := "is missing"
	if e.Format != "" {
		what = fmt.Sprintf("is no %s image", e.Format)
	}
	return fmt.Sprintf("disk %s of domain %s: its image %s %s", e.Target, e.Domain, e.Path, what)
}

// Hint says what to do in a backup.
func (e *UnusableError) Hint() string {
	return fmt.Sprintf("put the image back, by virtbackup restore if there is a point of it; --exclude %s leaves the disk out", e.Target)
}

// unreadable explains why qemu-img could not describe the images of a disk.
func unreadable(d guest.Domain, disk xml.Disk, path string, err error) error {
	var failed *qemuimg.Error
	if !errors.As(err, &failed) {
		return fmt.Errorf("disk %s of domain %s: %w", disk.Target, d.Name(), err)
	}
	_, absent := os.Stat(path)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fail.WithHint(err, "%s", qemuimg.Packages)
	case errors.Is(absent, fs.ErrNotExist):
		return &UnusableError{d.Name(), disk.Target, path, ""}
	case strings.HasSuffix(failed.Said, fmt.Sprintf("Could not open '%s': Image is not in %s format", path, disk.Format)):
		return &UnusableError{d.Name(), disk.Target, path, disk.Format}
	}
	return fmt.Errorf("disk %s of domain %s: %w", disk.Target, d.Name(), err)
}
