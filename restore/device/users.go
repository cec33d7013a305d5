package device

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// inUse is the error for a device that others use.
func inUse(path string, by []string) error {
	if len(by) == 0 {
		by = []string{"something has it open exclusively"}
	}
	return fail.Errorf(fail.Usage, "end that use, or name another device", "device %s is in use: %s", path, strings.Join(by, "; "))
}

// number is the device number of a block device.
type number uint64

// String is what /sys and /proc call it.
func (n number) String() string {
	return fmt.Sprintf("%d:%d", unix.Major(uint64(n)), unix.Minor(uint64(n)))
}

// sys is its directory in /sys; "" where there is none.
func (n number) sys() string {
	dir, err := filepath.EvalSymlinks("/sys/dev/block/" + n.String())
	if err != nil {
		return ""
	}
	return dir
}

// name is that of the device, such as sda1.
func (n number) name() string { return filepath.Base(n.sys()) }

// numbers are those of a device, the first, and of those that share bytes with it: its
// partitions, or the disk that it is a partition of.
type numbers []number

// numbersOf returns those of the block device at path. The error is of fail.Usage if there is
// something else.
func numbersOf(path string) (numbers, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fail.Errorf(fail.Usage, "name a block device", "%s is not a block device", path)
	}
	all := numbers{number(stat.Rdev)}
	if sys := all[0].sys(); sys != "" {
		related, _ := filepath.Glob(sys + "/*/partition") // nothing is found if there is none
		for _, file := range related {
			all = all.with(filepath.Dir(file))
		}
		if _, err := os.Stat(sys + "/partition"); err == nil {
			all = all.with(filepath.Dir(sys))
		}
	}
	return all, nil
}

// with adds the number of a device by its directory in /sys.
func (all numbers) with(sys string) numbers {
	text, err := os.ReadFile(sys + "/dev")
	major, minor, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	a, errA := strconv.ParseUint(major, 10, 32)
	b, errB := strconv.ParseUint(minor, 10, 32)
	if errors.Join(err, errA, errB) != nil || !ok {
		return all
	}
	return append(all, number(unix.Mkdev(uint32(a), uint32(b))))
}

// Same tells whether two paths lead to block devices that share bytes: to the same one, or to
// a disk and a partition of it.
func Same(path, other string) bool {
	a, errA := numbersOf(path)
	b, errB := numbersOf(other)
	if errors.Join(errA, errB) != nil {
		return false
	}
	return slices.Contains(a, b[0]) || slices.Contains(b, a[0])
}

// users says what uses a device that cannot be opened exclusively.
func (all numbers) users() (users []string) {
	for _, n := range all {
		what := "it "
		if n != all[0] {
			what = n.name() + " "
		}
		for _, at := range n.mounts() {
			users = append(users, what+"is mounted at "+at)
		}
		holders, _ := os.ReadDir(n.sys() + "/holders") // none where there is no directory
		for _, h := range holders {
			users = append(users, what+"is a part of "+h.Name())
		}
		if n.swaps() {
			users = append(users, what+"is swap space")
		}
	}
	return append(users, all.writers()...)
}

// mounts are the places where it is mounted, as far as this process sees them.
func (n number) mounts() (at []string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // proc_pid_mountinfo(5)
		i := slices.Index(fields, "-")
		if len(fields) > 4 && (fields[2] == n.String() || i > 0 && i+2 < len(fields) && n.isAt(fields[i+2])) {
			at = append(at, fields[4])
		}
	}
	return at
}

// isAt tells whether it is the device at path. btrfs has device numbers of its own in
// mountinfo.
func (n number) isAt(path string) bool {
	var stat unix.Stat_t
	return strings.HasPrefix(path, "/") && unix.Stat(path, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFBLK && number(stat.Rdev) == n
}

func (n number) swaps() bool {
	text, _ := os.ReadFile("/proc/swaps") // absent in a kernel without swap
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && n.isAt(fields[0]) {
			return true
		}
	}
	return false
}

// writers are other processes that have a device open for writing, as QEMU has the disks of
// its guest. Those of other users are seen by root only.
func (all numbers) writers() (who []string) {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	self := fmt.Sprintf("/proc/%d/", os.Getpid())
	seen := map[string]bool{}
	for _, fd := range fds {
		pid := strings.Split(fd, "/")[2]
		var stat unix.Stat_t
		if strings.HasPrefix(fd, self) || seen[pid] || unix.Stat(fd, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFBLK {
			continue
		}
		if slices.Contains(all, number(stat.Rdev)) && writes(fd) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm") // it may have ended
			who, seen[pid] = append(who, fmt.Sprintf("process %s (%s) has it open for writing", pid, strings.TrimSpace(string(name)))), true
		}
	}
	return who
}

// loops are the loop devices that write to it. The kernel does not open what is behind them
// exclusively, and no process has it open.
func (all numbers) loops() []string {
	return loopsOn(func(backing string) bool {
		return slices.ContainsFunc(all, func(n number) bool { return n.isAt(backing) })
	})
}

// loopsOn are the loop devices that write to what is theirs.
func loopsOn(theirs func(backing string) bool) (users []string) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // of those that are in use
	for _, file := range files {
		dir := filepath.Dir(filepath.Dir(file))
		backing, _ := os.ReadFile(file) // it may have been detached
		readOnly, _ := os.ReadFile(dir + "/ro")
		if strings.TrimSpace(string(readOnly)) != "1" && theirs(strings.TrimSuffix(string(backing), "\n")) {
			users = append(users, "it is behind /dev/"+filepath.Base(dir))
		}
	}
	return users
}

// FileInUse returns an error, of fail.Usage, if the host has a file as a loop device that can be written
// to: what is cached of that, as of a file system, would be written over what others write.
func FileInUse(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	by := loopsOn(func(backing string) bool {
		other, err := os.Stat(backing)
		return err == nil && os.SameFile(info, other)
	})
	if len(by) == 0 {
		return nil
	}
	return fail.Errorf(fail.Usage, "end that use: losetup --detach, once it is not mounted", "%s is in use: %s", path, strings.Join(by, "; "))
}

// writes tells whether a file descriptor in /proc is open for writing.
func writes(fd string) bool {
	info, _ := os.ReadFile(strings.Replace(fd, "/fd/", "/fdinfo/", 1))
	for line := range strings.Lines(string(info)) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			value, err := strconv.ParseUint(strings.TrimSpace(flags), 8, 64)
			return err == nil && value&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}
