package testfs

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
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
	out, err := exec.Command("losetup", append(options, "--find", "--show", image)...).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	return device
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
