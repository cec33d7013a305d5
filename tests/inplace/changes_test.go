package inplace

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/restore/inplace"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// Disks that have another size get the one back that they had; the next inc compares them.
func TestSizes(t *testing.T) {
	t.Parallel()
	s := kinds(t)
	points(t, s)
	s.Destroy()
	sizes := map[string]int64{"vda": 40 * mib, "vdb": 32 * mib, "vdc": 18*mib + 512, "vdd": 30 * mib}
	resize := func(shrink bool) {
		for _, d := range s.Disks {
			size := fmt.Sprint(sizes[d.Target])
			if shrink {
				size = fmt.Sprint(5*mib + 3*512)
			}
			testdomain.Tool(t, "qemu-img", "resize", "--shrink", "-q", "-f", d.Format, d.Source, size)
		}
	}
	for _, shrink := range []bool{false, true} {
		resize(shrink)
		r := restored(t, s, "check2", "--no-save")
		wantPoint(t, s, pointOf(t, s, "check2"))
		for _, d := range r.Disks {
			if d.ResizedFrom == 0 || d.Method != inplace.MethodCompare {
				t.Errorf("shrunk %v: %+v", shrink, d)
			}
		}
		for _, d := range s.Disks {
			if d.Format != "qcow2" {
				continue
			}
			if info := testdomain.Tool(t, "qemu-img", "info", d.Source); strings.Contains(info, s.Checkpoint("check1")) {
				t.Errorf("the bitmaps of disk %s are still there:\n%s", d.Target, info)
			}
		}
	}
	s.Start()
	s.BackUp(3, "inc")
	s.WriteAll(7)
	s.BackUp(0, "inc")
	s.Check()
}

// A disk with a bitmap of another tool is not resized: that would not show what it changes.
func TestSizeWithForeignBitmap(t *testing.T) {
	t.Parallel()
	s := small(t)
	vda := s.Disk("vda").Source
	testdomain.Tool(t, "qemu-img", "bitmap", "--add", vda, "theirs")
	testdomain.Tool(t, "qemu-img", "resize", "-q", vda, "12M")
	rejects(t, s, testsite.Reject(2, "bitmap theirs in "+vda+" is not ours", "qemu-img bitmap --remove"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
}

// A disk with internal snapshots is not resized: they have the size that it had.
func TestSizeWithSnapshot(t *testing.T) {
	t.Parallel()
	s := small(t)
	vda := s.Disk("vda").Source
	testdomain.Tool(t, "qemu-img", "snapshot", "-c", "theirs", vda)
	testdomain.Tool(t, "qemu-img", "resize", "-q", vda, "12M")
	rejects(t, s, testsite.Reject(2, "an image with internal snapshots is not resized", "snapshot-delete"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
}

// A bitmap of ours whose checkpoint was deleted, and which is back with an old copy of the image, is
// still ours: it does not prevent that the disk is resized, and does not stay.
func TestSizeWithForgottenBitmap(t *testing.T) {
	t.Parallel()
	s := small(t)
	vda := s.Disk("vda").Source
	testdomain.Tool(t, "cp", vda, vda+".old")
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check1", "--force")
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check2", "--force")
	testdomain.Tool(t, "dd", "status=none", "bs=1M", "if="+vda+".old", "of="+vda)
	testdomain.Tool(t, "qemu-img", "resize", "-q", vda, "12M")
	restored(t, s, "check1", "--no-save", "--disk", "vda")
	wantPoint(t, s, pointOf(t, s, "check1"), "vda")
	if info := testdomain.Tool(t, "qemu-img", "info", vda); strings.Contains(info, "check1.") || strings.Contains(info, "check2.") {
		t.Errorf("bitmaps that do not show what was resized stay: %s", info)
	}
}

// A checkpoint of another tool beside ours: an incremental since it, made with libvirt alone,
// is right after the disks were put back.
func TestForeignCheckpoint(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 24 * mib}, testdomain.Disk{Target: "vdb", Size: 20 * mib, Backing: "qcow2"}))
	s.Init()
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.IO("vda", "write -P 0x31 9M 1M")
	testdomain.Virsh(t, "checkpoint-create-as", s.Name, "theirs")
	then := s.Truths()
	s.WriteAll(3)
	s.Destroy()
	restored(t, s, "check1", "--no-save")
	wantPoint(t, s, pointOf(t, s, "check1"))
	s.Start()
	s.IO("vdb", "write -P 0x41 2M 64k")

	// Their increment, pushed onto copies of what the disks were.
	doc := "<domainbackup mode='push'><incremental>theirs</incremental><disks>"
	for _, d := range s.Disks {
		base := filepath.Join(s.Dir, d.Target+".then.raw")
		testdomain.Tool(t, "cp", then[d.Target], base)
		target := filepath.Join(s.Dir, d.Target+".theirs")
		testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", target)
		doc += fmt.Sprintf("<disk name='%s' type='file'><driver type='qcow2'/><target file='%s'/></disk>", d.Target, target)
	}
	file := filepath.Join(s.Dir, "push.xml")
	testsite.WriteFile(t, file, doc+"</disks></domainbackup>")
	testdomain.Tool(t, "chmod", "-R", "a+rw", s.Dir)
	testdomain.Virsh(t, "backup-begin", s.Name, file, "--reuse-external")
	testsite.Await(t, "the end of the push", 0, func() bool { return !s.HasJob() })
	now := s.Truths()
	for _, d := range s.Disks {
		testdomain.Same(t, filepath.Join(s.Dir, d.Target+".theirs"), "qcow2", now[d.Target])
	}
	s.BackUp(0, "inc")
	s.Check()
}

// On a chain of images the top one is written to, and no other changes; bitmaps of both count.
func TestOverlay(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 24 * mib}))
	s.Init()
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	base, top := s.Disk("vda").Source, filepath.Join(s.Dir, "top.qcow2")
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "--disk-only", "--atomic", "--no-metadata", "--diskspec", "vda,file="+top)
	s.Disks[0].Source = top
	s.IO("vda", "write -P 0x51 10M 100k")
	s.BackUp(0, "inc")
	s.IO("vda", "write -P 0x52 15M 100k")
	s.Destroy()
	before := digests(t, s.Dir)
	for _, id := range []string{"check1", "check2", "check1"} {
		r := restored(t, s, id, "--no-save")
		wantPoint(t, s, pointOf(t, s, id))
		if d := diskOf(t, r, "vda"); d.Path != top || d.Method != inplace.MethodBitmap {
			t.Errorf("%+v", d)
		}
	}
	if after := digests(t, s.Dir); before[base] != after[base] {
		t.Error("the backing file was changed")
	}
	s.Start()
	s.BackUp(0, "inc")
	s.Check()
}

// onDevice makes a domain on a raw block device, with one point, and changes it.
func onDevice(t *testing.T) *testsite.Site {
	t.Helper()
	file := filepath.Join(testdomain.TempDir(t), "device")
	testdomain.Tool(t, "truncate", "-s", "16M", file)
	device := testfs.Attach(t, file)
	domain := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Format: "raw", Source: device})
	s := testsite.New(t, domain)
	s.Init()
	s.MayWarn = true
	s.Redefine("<disk type='file' device='disk'>\n      <driver name='qemu' type='raw' discard='unmap'/>\n      <source file=", "<disk type='block' device='disk'>\n      <driver name='qemu' type='raw' discard='unmap'/>\n      <source dev=")
	s.Start()
	s.IO("vda", "write -P 0x11 0 9M")
	s.BackUp(0, "full")
	s.IO("vda", "write -P 0x12 0 1M", "write -z -u 4M 1M", "write -P 0x13 12M 1M")
	s.Destroy()
	return s
}

// A raw block device keeps what is a device; one of another size is refused.
func TestDevice(t *testing.T) {
	t.Parallel()
	s := onDevice(t)
	device := s.Disk("vda").Source
	r := restored(t, s, "check1", "--no-save")
	wantPoint(t, s, pointOf(t, s, "check1"))
	if d := diskOf(t, r, "vda"); d.Path != device || d.Bytes > 4*mib {
		t.Errorf("%+v", d)
	}
	used, err := os.OpenFile(device, os.O_RDWR|os.O_EXCL, 0) // as a mount does
	if err != nil {
		t.Fatal(err)
	}
	rejects(t, s, testsite.Reject(2, "device "+device+" is in use", "end that use"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
	if err := used.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r2(t, s), "take care that no other host runs the domain") {
		t.Error("it does not say that a device may be another host's, too")
	}
	file := strings.TrimSpace(testdomain.Tool(t, "losetup", "--noheadings", "--output", "BACK-FILE", device))
	testdomain.Tool(t, "truncate", "-s", "18M", file)
	testdomain.Tool(t, "losetup", "--set-capacity", device)
	rejects(t, s, testsite.Reject(2, "a device is not resized", "--output"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
}

// r2 is what a restore says that overwrites something.
func r2(t *testing.T, s *testsite.Site) string {
	t.Helper()
	testdomain.QemuIO(t, s.Disk("vda").Source, "raw", "write -P 0x66 3M 64k")
	return s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save").Stderr
}

// The file of a disk keeps its owner, mode and extended attributes; zeros take no space.
func TestFileStays(t *testing.T) {
	t.Parallel()
	s := small(t)
	for _, d := range s.Disks {
		testdomain.Tool(t, "chown", "64055:64055", d.Source)
		testdomain.Tool(t, "chmod", "0640", d.Source)
		if err := unix.Setxattr(d.Source, "user.label", []byte("mine"), 0); err != nil {
			t.Fatal(err)
		}
	}
	inode := func(d testdomain.Disk) string {
		label := make([]byte, 10)
		n, err := unix.Getxattr(d.Source, "user.label", label)
		return fmt.Sprintf("%s label %s %v", testdomain.Tool(t, "stat", "-c", "%i %u %g %a", d.Source), label[:max(n, 0)], err)
	}
	var before []string
	for _, d := range s.Disks {
		testdomain.QemuIO(t, d.Source, d.Format, "write -P 0x99 4M 4M")
		before = append(before, inode(d))
	}
	restored(t, s, "check1", "--no-save")
	for i, d := range s.Disks {
		if after := inode(d); after != before[i] {
			t.Errorf("disk %s: before %q, after %q", d.Target, before[i], after)
		}
	}
	info, err := os.Stat(s.Disk("vdb").Source)
	if err != nil {
		t.Fatal(err)
	}
	if kib := testdomain.Tool(t, "du", "-k", s.Disk("vdb").Source); !strings.HasPrefix(kib, "3") && !strings.HasPrefix(kib, "2") && !strings.HasPrefix(kib, "1") {
		t.Errorf("the raw disk of %d bytes takes %s KiB", info.Size(), kib)
	}
}

// Disks that are not in the point, or not chosen, are left alone, and named.
func TestLeftAlone(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}, testdomain.Disk{Target: "vdc", Size: 8 * mib}))
	s.Init()
	s.BackUp(0, "full", "--exclude", "vdc")
	s.WriteAll(1)
	s.Destroy()
	before := digests(t, s.Dir)
	r := restored(t, s, "check1", "--no-save", "--disk", "vda")
	if strings.Join(r.LeftAlone, " ") != "vdb vdc" || len(r.Disks) != 1 {
		t.Errorf("%+v", r)
	}
	after := digests(t, s.Dir)
	for _, target := range []string{"vdb", "vdc"} {
		if path := s.Disk(target).Source; before[path] != after[path] {
			t.Errorf("disk %s was changed", target)
		}
	}
	wantPoint(t, s, pointOf(t, s, "check1"), "vda")
}

// The guest notices that it went back in time; the definition is otherwise as it was, with its
// secrets.
func TestGeneration(t *testing.T) {
	t.Parallel()
	s := small(t)
	const id = "43dc0cf8-809b-4adb-9bea-a9abb5f3d90e"
	s.Redefine("<memory unit=", "<genid>"+id+"</genid><memory unit=")
	s.Redefine("</devices>", "<graphics type='vnc' passwd='secret' port='-1' autoport='yes'/></devices>")
	before := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive", "--security-info")
	args := []string{"restore", s.Name + "@check1", "--in-place", "--yes", "--no-save"}
	if r := faulty(t, s, []string{"VIRTBACKUP_FAULT=in place: write heads before:kill"}, args...); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	if strings.Contains(testdomain.Virsh(t, "dumpxml", s.Name, "--inactive"), id) {
		t.Error("the domain could boot before it has another id")
	}
	restored(t, s, "check1", "--no-save")
	after := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive", "--security-info")
	if strings.Contains(after, id) || !strings.Contains(after, "<genid>") || !strings.Contains(after, "passwd='secret'") {
		t.Errorf("%s", after)
	}
	at := strings.Index(before, id)
	if before[:at] != after[:at] || before[at+len(id):] != after[at+len(id):] {
		t.Errorf("more than the generation id has changed:\n%s\n%s", before, after)
	}
}

// A raw file of no bytes, as touch makes it in place of one that is lost, becomes the disk again.
func TestEmptyFile(t *testing.T) {
	t.Parallel()
	s := small(t)
	vdb := s.Disk("vdb").Source
	testdomain.Tool(t, "truncate", "-s", "0", vdb)
	r := restored(t, s, "check1", "--no-save", "--disk", "vdb")
	wantPoint(t, s, pointOf(t, s, "check1"), "vdb")
	if info, err := os.Stat(vdb); err != nil || info.Size() != 8*mib {
		t.Errorf("it has %d bytes, %v", info.Size(), err)
	}
	t.Logf("%+v", r)
}
