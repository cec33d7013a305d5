package testsite

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// Small is a domain of two small disks.
func Small(t *testing.T) *Site {
	t.Helper()
	s := New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 1 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	s.Write("vdb", 0, 64<<10, 0x42)
	return s
}

// Filled is a domain of two disks that hold data: vda 24 MiB, vdb 20 MiB, whose
// size is no multiple of a cluster.
func Filled(t *testing.T) *Site {
	t.Helper()
	s := New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 48 << 20}, testdomain.Disk{Target: "vdb", Size: 40<<20 + 37*512}))
	s.IO("vda", "write -P 0x11 8M 24M")
	s.IO("vdb", "write -P 0x22 4M 20M", "write -P 0x23 40M 18944")
	s.WriteAll(1)
	return s
}

// Slow is a domain with a first point, and then so much new data that a run takes a while.
func Slow(t *testing.T) *Site {
	t.Helper()
	s := New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 512 << 20}, testdomain.Disk{Target: "vdb", Size: 1 << 20}))
	s.Write("vdb", 0, 64<<10, 0x41)
	s.BackUp(0, "full")
	s.Write("vda", 0, 384<<20, 0x42)
	return s
}
