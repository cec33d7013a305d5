package filelock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Holders names the processes of this host that have the file locked, by /proc/locks; none
// where that cannot be read.
func Holders(f *os.File) (names []string) {
	info, err := f.Stat()
	locks, readErr := os.ReadFile("/proc/locks")
	if err != nil || readErr != nil {
		return nil
	}
	// 1: FLOCK  ADVISORY  READ 1234 08:01:5678 0 EOF   (proc(5); the last number is the inode's)
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	for _, line := range strings.Split(string(locks), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err != nil || pid <= 0 || !hasOpen(pid, info) {
			continue
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if name := fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(comm))); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// hasOpen tells whether a process has a file open. Inodes of other file systems have the
// same numbers. If this user may not look (ptrace(2), access mode checking), the number has to
// do.
func hasOpen(pid int, file os.FileInfo) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return true
	}
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		path := filepath.Join(dir, e.Name())
		// Files of other names are not asked: the file system of one may hang.
		if target, err := os.Readlink(path); err != nil || filepath.Base(target) != file.Name() {
			return false
		}
		open, err := os.Stat(path)
		return err == nil && os.SameFile(open, file)
	})
}
