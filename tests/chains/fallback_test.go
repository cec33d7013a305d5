package chains

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// When QEMU is killed the bitmaps are lost: the disks are read in full and
// compared with the previous point, the points stay small, the chain goes on, and the
// user is told.
func TestRescan(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc", "--compress", "zstd")
	s.Crash(3)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb rescan")
	for _, target := range []string{"vda", "vdb"} {
		testsite.WantSmall(t, inc, target)
		words := "disk " + target + " is read in full and compared with point check2: the bitmap of checkpoint check2 is missing or broken"
		testsite.WantSaid(t, inc.Warnings, words)
		testsite.WantSaid(t, inc.Point.Warnings, words)
		if d := testsite.DiskOf(t, inc.Point, target); d.Parent != "../check2/"+target+".qcow2" || !strings.Contains(d.Reason, "missing or broken") {
			t.Errorf("%s has the parent %q, reason %q", target, d.Parent, d.Reason)
		}
	}
	list := s.Program.Must(t, nil, "list", s.Name).Stdout
	if !strings.Contains(list, "vda vdb rescanned: the bitmap of checkpoint check2 is missing or broken") {
		t.Errorf("list does not say why:\n%s", list)
	}
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Crash(5)
	diff := s.BackUp(3, "diff", "--compress", "zstd")
	testsite.WantKinds(t, diff.Point, "vda rescan, vdb rescan")
	testsite.WantSmall(t, diff, "vda")
	auto := s.BackUp(3, "auto")
	testsite.WantKinds(t, auto.Point, "vda rescan, vdb rescan")
	testsite.WantSmall(t, auto, "vdb")
	if !strings.Contains(auto.Why, "compared with check4") {
		t.Errorf("auto chose %q", auto.Why)
	}
	// Nothing has changed since, so nothing is stored.
	s.Kill()
	s.Start()
	none := s.BackUp(3, "inc")
	testsite.WantKinds(t, none.Point, "vda rescan, vdb rescan")
	for _, d := range none.Point.Disks {
		if d.DataBytes != 0 || d.ZeroBytes != 0 {
			t.Errorf("%s: %d bytes of data and %d of zeros, although nothing has changed", d.Target, d.DataBytes, d.ZeroBytes)
		}
	}
	s.WriteAll(6)
	testsite.WantKinds(t, s.BackUp(0, "auto").Point, "vda inc, vdb inc")
	s.Check()
}

// The disk whose bitmap is lost is compared in the job that copies the other one
// incrementally; a new disk is copied in full.
func TestRescanOfOneDisk(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	s.Destroy()
	testdomain.Tool(t, "qemu-img", "bitmap", "--remove", s.Disk("vdb").Source, s.Checkpoint("check1"))
	s.Start()
	attach(s, "vdc", 8<<20+512)
	s.WriteAll(2)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb rescan, vdc full")
	testsite.WantSmall(t, inc, "vdb")
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc, vdc inc")
	// A checkpoint of one disk does not cover the other.
	s.BackUp(0, "full", "--disk", "vda")
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda inc, vdb full, vdc full")
	s.Check()
}

// A disk that has grown or shrunk is compared up to its size in the previous point.
func TestRescanOfResizedDisks(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	testdomain.Virsh(t, "blockresize", s.Name, "vda", fmt.Sprintf("%dB", 50<<20+512))
	testdomain.Virsh(t, "blockresize", s.Name, "vdb", fmt.Sprintf("%dB", 40<<20+100*512))
	s.IO("vda", "write -P 0x33 50M 512", "write -P 0x34 48M 64k")
	s.Crash(2)
	grown := s.BackUp(3, "inc")
	testsite.WantKinds(t, grown.Point, "vda rescan, vdb rescan")
	testsite.WantSmall(t, grown, "vda")
	testsite.WantSmall(t, grown, "vdb")
	testdomain.Virsh(t, "blockresize", s.Name, "vda", fmt.Sprintf("%dB", 31<<20+512))
	s.Crash(3)
	shrunk := s.BackUp(3, "inc")
	testsite.WantKinds(t, shrunk.Point, "vda rescan, vdb rescan")
	testsite.WantSaid(t, shrunk.Warnings, "disk vda is read in full and compared with point check2: ")
	testsite.WantSmall(t, shrunk, "vda")
	testdomain.Virsh(t, "blockresize", s.Name, "vda", fmt.Sprintf("%dB", 48<<20))
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Crash(5)
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan, vdb rescan")
	s.Check()
}

// A disk that was shrunk and grown again has lost its end, which no bitmap records.
func TestShrunkAndRegrown(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc", "--compress", "zstd")
	resize := func(target string, sizes ...int64) {
		for _, size := range sizes {
			testdomain.Virsh(t, "blockresize", s.Name, target, fmt.Sprintf("%dB", size))
		}
	}
	resize("vda", 20<<20, 48<<20)
	s.WriteAll(3)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb inc")
	testsite.WantSmall(t, inc, "vda")
	testsite.WantSaid(t, inc.Warnings, "was the disk shrunk and grown again")
	resize("vdb", 40<<20+512, 41<<20) // within a cluster, whose rest QEMU writes
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.WriteAll(4)
	resize("vda", 40<<20, 50<<20) // only zeros are cut off
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	resize("vda", 10<<20, 50<<20)
	s.IO("vda", "write -P 0x77 19M 2M", "write -P 0x78 49M 64k")
	s.Refused(1, "was the disk shrunk and grown again", "inc", s.Name, "--fallback", "fail")
	testsite.WantKinds(t, s.BackUp(3, "inc", "--fallback", "full").Point, "vda full, vdb inc")
	s.Check()
}

// Two images that were swapped have bitmaps of the same name, which do not say what changed
// on the disk.
func TestSwappedImages(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.IO("vda", "write -P 0x11 0 8M")
	s.IO("vdb", "write -P 0x22 0 8M")
	s.BackUp(0, "full")
	a, b := s.Disk("vda").Source, s.Disk("vdb").Source
	s.Destroy()
	s.Redefine(a, a+".tmp") // by definition
	s.Redefine(b, a)
	s.Redefine(a+".tmp", b)
	s.Disks[0].Source, s.Disks[1].Source = b, a
	s.Start()
	s.WriteAll(1)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb rescan")
	testsite.WantSaid(t, inc.Warnings, fmt.Sprintf("its image was another one then (%s, now %s)", a, b))
	s.WriteAll(2)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Destroy()
	testdomain.Tool(t, "mv", a, a+".tmp") // by name
	testdomain.Tool(t, "mv", b, a)
	testdomain.Tool(t, "mv", a+".tmp", b)
	s.Start()
	inc = s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb rescan")
	testsite.WantSaid(t, inc.Warnings, "was replaced by another file since")
	// Moved, but the same file.
	s.Destroy()
	testdomain.Tool(t, "mv", a, a+".moved")
	s.Redefine(a, a+".moved")
	s.Disks[1].Source = a + ".moved"
	s.Start()
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// A live snapshot that is committed back, and a disk that is moved while the
// guest runs: the points are right, whether the bitmaps survive or not.
func TestLiveBlockJobs(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	base, overlay, moved := s.Disk("vda").Source, filepath.Join(s.Dir, "overlay"), filepath.Join(s.Dir, "moved")
	snapshot := func() {
		testdomain.Virsh(t, "snapshot-create-as", s.Name, "snap", "--disk-only", "--no-metadata",
			"--diskspec", "vda,file="+overlay, "--diskspec", "vdb,snapshot=no")
		s.Disks[0].Source = overlay
	}
	commit := func() {
		testdomain.Virsh(t, "blockcommit", s.Name, "vda", "--active", "--pivot", "--wait", "--delete")
		s.Disks[0].Source = base
	}
	snapshot()
	s.WriteAll(2)
	commit()
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc") // as usual
	snapshot()
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	commit()
	s.WriteAll(5)
	inc := s.BackUp(3, "inc") // the point before was of the overlay
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb inc")
	testsite.WantSmall(t, inc, "vda")
	if _, err := testdomain.TryVirsh(t, "blockcopy", s.Name, "vda", moved, "--wait", "--pivot", "--transient-job"); err != nil {
		t.Fatal(err)
	}
	s.Disks[0].Source = moved
	s.WriteAll(6)
	inc = s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb inc")
	testsite.WantSaid(t, inc.Warnings, "its image was another one then")
	s.Check()
}

// A disk that becomes raw is compared from then on, and one that becomes qcow2
// again is compared once more.
func TestDiskTurnsRaw(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	image, raw := s.Disk("vdb").Source, filepath.Join(s.Dir, "vdb.raw")
	convert := func(from, fromFormat, to, toFormat string) {
		s.Destroy()
		testdomain.Tool(t, "qemu-img", "convert", "-f", fromFormat, "-O", toFormat, from, to)
		xml := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
		before := fmt.Sprintf("<driver name='qemu' type='%s' discard='unmap'/>\n      <source file='%s'/>", fromFormat, from)
		if !strings.Contains(xml, before) {
			t.Fatalf("the domain's XML has changed:\n%s", xml)
		}
		s.Redefine(before, fmt.Sprintf("<driver name='qemu' type='%s' discard='unmap'/><source file='%s'/>", toFormat, to))
		s.Disks[1].Source, s.Disks[1].Format = to, toFormat
		s.Start()
	}
	convert(image, "qcow2", raw, "raw")
	s.WriteAll(2)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb rescan")
	testsite.WantSmall(t, inc, "vdb")
	testsite.WantSaid(t, inc.Warnings, "disk vdb is raw now")
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan") // not reported again
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	convert(raw, "raw", image, "qcow2")
	s.WriteAll(4)
	inc = s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb rescan")
	testsite.WantSmall(t, inc, "vdb")
	s.WriteAll(5)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// With --fallback fail the run fails and changes nothing.
func TestFallbackFail(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.Refused(2, "--fallback is rescan, full or fail", "inc", s.Name, "--fallback", "maybe")
	testsite.WantKinds(t, s.BackUp(0, "auto", "--fallback", "fail").Point, "vda full, vdb full")
	s.WriteAll(2)
	testsite.WantKinds(t, s.BackUp(0, "inc", "--fallback", "fail").Point, "vda inc, vdb inc")
	s.Crash(3)
	for _, kind := range []string{"inc", "diff", "auto"} {
		s.Refused(1, "disk vda: the bitmap of checkpoint check", kind, s.Name, "--fallback", "fail")
		s.Refused(1, "hint: --fallback rescan", kind, s.Name, "--fallback", "fail")
	}
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan, vdb rescan")
	s.Check()
}

// A run that is killed while it compares leaves no temporary file behind, and the
// next one cleans up.
func TestRescanKilled(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	s.Crash(2)
	temp := testdomain.TempDir(t)
	s.Program.Env = append(s.Program.Env, "TMPDIR="+temp)
	p := s.Program.Start(t, "inc", s.Name, "--limit-rate", "1M")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		// The images are made once the disks are open, just before they are compared.
		if images, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".partial-*", "vd?.qcow2*")); len(images) == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not compare")
		}
	}
	time.Sleep(100 * time.Millisecond)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb rescan")
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left in the directory for temporary files: %v", left)
	}
	s.Check()
}
