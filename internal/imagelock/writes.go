package imagelock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// WriteOut writes to a device what was written to it before and is still cached, so that it does
// not count as written later.
func WriteOut(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Writes returns the kernel's counters of sectors of a block device that were written and discarded
// (Documentation/block/stat.rst), "" of a file. The number of writes would also count each fsync.
func Writes(info fs.FileInfo) (string, error) {
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().IsRegular() {
		return "", nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(of.Rdev), unix.Minor(of.Rdev)))
	if err != nil {
		return "", err
	}
	counts := strings.Fields(string(text))
	if len(counts) < 7 {
		return "", fmt.Errorf("the kernel counts no writes to block device %s", info.Name())
	}
	counted := counts[6]
	if len(counts) > 13 { // discards, since Linux 4.18
		counted += " " + counts[13]
	}
	return counted, nil
}
