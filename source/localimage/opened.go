package localimage

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Deleted tells whether a process has a file open that had this path and has been removed or
// replaced since, and not the file that has the path now: the links in /proc/PID/fd say "(deleted)"
// then (proc(5)). false may also mean that this cannot be found out.
func Deleted(pid int, path string) bool {
	return deleted(filepath.Join("/proc", strconv.Itoa(pid), "fd"), path)
}

func deleted(fds, path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	entries, err := os.ReadDir(fds)
	if err != nil {
		return false
	}
	now, nowErr := os.Stat(path)
	was := false
	for _, e := range entries {
		fd := filepath.Join(fds, e.Name())
		link, err := os.Readlink(fd)
		if err != nil {
			continue // closed meanwhile
		}
		if opened, err := os.Stat(fd); err == nil && nowErr == nil && os.SameFile(opened, now) {
			return false
		}
		if gone, ok := strings.CutSuffix(link, " (deleted)"); ok && (gone == path || gone == real) {
			was = true
		}
	}
	return was
}
