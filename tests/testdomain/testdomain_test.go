package testdomain_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// The versions of what the tests run on, in the log of every run.
func TestTools(t *testing.T) {
	t.Log(testdomain.Virsh(t, "version", "--daemon"))
	for _, tool := range []string{"qemu-img", "qemu-nbd", "nbdkit", "nbdcopy"} {
		first, _, _ := strings.Cut(testdomain.Tool(t, tool, "--version"), "\n")
		t.Log(first)
	}
}

// What is written through QEMU's block layer is what the copy of the truth
// shows, for every kind of source image.
func TestHarnessDisks(t *testing.T) {
	disks := []testdomain.Disk{
		{Target: "vda", Size: 64 << 20},
		{Target: "vdb", Size: 64<<20 + 512, ClusterSize: 4 << 10},
		{Target: "vdc", Size: 64 << 20, ClusterSize: 2 << 20},
		{Target: "vdd", Size: 64 << 20, Subclusters: true},
		{Target: "vde", Size: 64 << 20, Backing: "qcow2"},
		{Target: "vdf", Size: 64 << 20, Backing: "raw"},
		{Target: "vdg", Size: 64 << 20, Format: "raw"},
		{Target: "hda", Device: "cdrom"},
	}
	d := testdomain.New(t, disks...)
	for _, disk := range d.Disks[:7] {
		checkTruth(t, d, disk)
	}
}

// checkTruth writes to a disk and lets qemu-io judge the copy of the truth.
func checkTruth(t *testing.T, d *testdomain.Domain, disk testdomain.Disk) {
	t.Helper()
	raw := filepath.Join(d.Dir, disk.Target+".truth")
	d.IO(disk.Target, "write -P 0x41 1M 64k", "write -P 0x42 5000 1000", "write -z 1M 4k",
		"write -z -u 1104k 8k", "discard 2M 1M", "flush")
	d.Truth(disk.Target, raw)
	below := 0
	if disk.Backing != "" {
		below = testdomain.BackingByte
	}
	for _, c := range []string{
		fmt.Sprintf("read -P %#x 0 5000", below), "read -P 0x42 5000 1000", "read -P 0 1M 4k",
		"read -P 0x41 1028k 60k", fmt.Sprintf("read -P %#x 4M 64k", below),
	} {
		testdomain.QemuIO(t, raw, "raw", c)
	}
	if got, want := testdomain.VirtualSize(t, raw, "raw"), disk.Size; got != want {
		t.Errorf("the truth of %s has %d bytes, want %d", disk.Target, got, want)
	}
	testdomain.Same(t, raw, "raw", raw)
}

// A request that QEMU refuses is an error, not silence.
func TestHarnessSeesErrors(t *testing.T) {
	d := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20})
	for _, c := range []string{"write -P 0x41 2M 64k", "nonsense", "write"} {
		if err := d.TryIO("vda", c); err == nil {
			t.Errorf("qemu-io %q: no error", c)
		}
	}
	if err := d.TryIO("vdx", "flush"); err == nil {
		t.Error("flush of a disk that does not exist: no error")
	}
	if got := d.State(); got != "paused" {
		t.Errorf("the domain is %s, want paused", got)
	}
}

// The real guest boots, its agent answers, and what it wrote is on its disk.
func TestHarnessGuest(t *testing.T) {
	d := testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 256 << 20},
		testdomain.Disk{Target: "vdb", Size: 16 << 20})
	content := []byte("written before the point\n")
	d.WriteFile("/mnt/before", content)
	d.WriteForever()
	if got := strings.TrimSpace(d.Exec("cat /sys/block/vdb/size")); got != "32768" {
		t.Errorf("vdb has %s sectors, want 32768", got)
	}
	testdomain.Virsh(t, "domfsfreeze", d.Name)
	raw := filepath.Join(d.Dir, "frozen")
	d.Truth("vda", raw)
	testdomain.Virsh(t, "domfsthaw", d.Name)
	if testdomain.NeedsReplay(t, raw) {
		t.Error("a frozen file system has a journal to replay")
	}
	checkGuestDisk(t, raw, content)
	testdomain.Virsh(t, "suspend", d.Name)
	d.Truth("vda", raw)
	checkGuestDisk(t, raw, content)
	testdomain.Virsh(t, "resume", d.Name)
	d.PowerOff()
}

func checkGuestDisk(t *testing.T, raw string, content []byte) {
	t.Helper()
	testdomain.Fsck(t, raw)
	if got := testdomain.GuestFile(t, raw, "/before"); !bytes.Equal(got, content) {
		t.Errorf("the file holds %q, want %q", got, content)
	}
}
