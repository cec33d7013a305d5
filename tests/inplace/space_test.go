package inplace

import (
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A file system that is mounted read-only is noticed before anything is done.
func TestReadOnlyTarget(t *testing.T) {
	t.Parallel()
	dir := testsite.Mount(t, "24M")
	source := filepath.Join(dir, "vda")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", source, "16M")
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Source: source}))
	s.Init()
	s.MayWarn = true
	s.BackUp(0, "full")
	testdomain.QemuIO(t, source, "qcow2", "write -P 0x22 2M 1M")
	testdomain.Tool(t, "mount", "-o", "remount,ro", dir)
	rejects(t, s, testsite.Reject(1, "cannot be written to: read-only file system", "mounted read-only"), s.Name+"@check1", "--in-place", "--yes")
	testdomain.Tool(t, "mount", "-o", "remount,rw", dir)
	restored(t, s, "check1", "--no-save")
	wantPoint(t, s, pointOf(t, s, "check1"))
}

// onSmallFileSystem has a point of a disk of 16 MiB, most of it data, on a file system of 24 MiB,
// which full fills.
func onSmallFileSystem(t *testing.T, format string) (s *testsite.Site, source string, full func()) {
	t.Helper()
	dir := testsite.Mount(t, "24M")
	testdomain.Tool(t, "chmod", "777", dir)
	source = filepath.Join(dir, "vda")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", format, source, "16M")
	s = testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Format: format, Source: source}))
	s.Init()
	s.MayWarn = true
	testdomain.QemuIO(t, source, format, "write -P 0x21 2M 12M")
	s.BackUp(0, "full")
	return s, source, func() {
		testdomain.Tool(t, "sh", "-c", "! dd if=/dev/zero of="+filepath.Join(dir, "filler")+" bs=64k 2>/dev/null")
	}
}

// What does not fit is refused before anything is written; what has its space already needs no
// other.
func TestSpace(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"qcow2", "raw"} {
		s, source, full := onSmallFileSystem(t, format)

		testdomain.QemuIO(t, source, format, "write -P 0x22 2M 12M")
		full()
		restored(t, s, "check1", "--no-save")
		wantPoint(t, s, pointOf(t, s, "check1"))

		testdomain.QemuIO(t, source, format, "discard 2M 12M")
		full()
		rejects(t, s, testsite.Reject(1, "has too little space", "free space there"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
		testdomain.Tool(t, "rm", filepath.Join(filepath.Dir(source), "filler"))
		restored(t, s, "check1", "--no-save")
		wantPoint(t, s, pointOf(t, s, "check1"))
	}
}

// Space that is only reserved (fallocate(2)) is space that a disk has.
func TestReservedSpace(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"qcow2", "raw"} {
		s, source, full := onSmallFileSystem(t, format)
		testdomain.Tool(t, "qemu-img", "create", "-q", "-f", format, "-o", "preallocation=falloc", source, "16M")
		full()
		restored(t, s, "check1", "--no-save")
		wantPoint(t, s, pointOf(t, s, "check1"))
	}
}
