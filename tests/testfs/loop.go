package testfs

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Loop makes a block device of so many bytes, each of them fill, until the test ends. options
// are losetup's.
func Loop(t testing.TB, size int64, fill byte, options ...string) (device string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(image, bytes.Repeat([]byte{fill}, int(size)), 0o600); err != nil {
		t.Fatal(err)
	}
	return Attach(t, image, options...)
}

// oneAtATime goes before a command that takes a free loop device. Of two that take one at the
// same time, the one that gets no device has that of the other open for writing for a moment,
// in which nothing else may write to it. The lock is that of flock(2) on a directory that is
// always there, so it holds between the test processes of all packages and leaves no file.
var oneAtATime = []string{"flock", "--close", "/dev"}

// Attach makes a loop device of a file, until the test ends. options are losetup's.
func Attach(t testing.TB, file string, options ...string) (device string) {
	t.Helper()
	device = AttachOnly(t, file, options...)
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	return device
}

// AttachOnly makes a loop device of a file, for a caller that detaches it. options
// are losetup's.
func AttachOnly(t testing.TB, file string, options ...string) (device string) {
	t.Helper()
	args := slices.Concat(oneAtATime, []string{"losetup"}, options, []string{"--find", "--show", file})
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// MountImage mounts the file system in a file, until it is unmounted. options are mount's.
func MountImage(t testing.TB, image, dir, options string) {
	t.Helper()
	run(t, append(oneAtATime[:len(oneAtATime):len(oneAtATime)], "mount", "-o", options, image, dir)...)
}

// Partition makes a partition from 1 MiB to the end of a device of size bytes, until the test
// ends, and returns its path.
func Partition(t testing.TB, device string, size int64) string {
	t.Helper()
	table := make([]byte, 512)
	table[446+4] = 0x83 // Linux
	binary.LittleEndian.PutUint32(table[446+8:], 2048)
	binary.LittleEndian.PutUint32(table[446+12:], uint32(size/512-2048))
	copy(table[510:], "\x55\xaa")
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(table)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, "partx", "--update", device) // the kernel may have found it already
	t.Cleanup(func() { run(t, "partx", "--delete", device) })
	return device + "p1"
}

// Mount mounts what mkfs makes on a device, until the test ends.
func Mount(t testing.TB, device string, mkfs ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	run(t, append(mkfs, device)...)
	run(t, "mount", device, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}
