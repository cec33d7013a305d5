package chains

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// oldImage makes a qcow2 image of version 2, which has no bitmaps.
func oldImage(t *testing.T, size int64) string {
	t.Helper()
	image := filepath.Join(testdomain.TempDir(t), "old.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", image, strconv.FormatInt(size, 10))
	return image
}

// Every kind of source image is backed up and restored unchanged, and images without
// bitmaps do not affect the others.
func TestSources(t *testing.T) {
	t.Parallel()
	const size = 24 << 20
	s := testsite.New(t, testdomain.New(t,
		testdomain.Disk{Target: "vda", Size: size, ClusterSize: 4 << 10},
		testdomain.Disk{Target: "vdb", Size: size + 512, ClusterSize: 2 << 20},
		testdomain.Disk{Target: "vdc", Size: size + 3*512, Backing: "qcow2"},
		testdomain.Disk{Target: "vdd", Size: size, Backing: "raw", ClusterSize: 4 << 10},
		testdomain.Disk{Target: "vde", Size: size + 7*512, Subclusters: true, ClusterSize: 128 << 10, Backing: "qcow2"},
		testdomain.Disk{Target: "vdf", Size: size + 512, Format: "raw"},
		testdomain.Disk{Target: "vdg", Size: size, Source: oldImage(t, size)},
		testdomain.Disk{Target: "hda", Device: "cdrom"}))
	scribble(s, 1)
	full := s.BackUp(0, "full")
	testsite.WantSaid(t, full.Notes, "an inc will read all of disk vdf, and store what differs: a raw image has no bitmaps")
	scribble(s, 2)
	inc := s.BackUp(0, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb inc, vdc inc, vdd inc, vde inc, vdf rescan, vdg rescan")
	wantQuiet(t, inc)
	list := s.Program.Must(t, nil, "list", s.Name).Stdout
	testsite.WantLine(t, list, `vdf rescanned: a raw image has no bitmaps; vdg rescanned: a qcow2 v2 image has no bitmaps$`)
	scribble(s, 3)
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check1").Point, "vda inc, vdb inc, vdc inc, vdd inc, vde inc, vdf rescan, vdg rescan")
	scribble(s, 4)
	testsite.WantKinds(t, s.BackUp(0, "auto").Point, "vda inc, vdb inc, vdc inc, vdd inc, vde inc, vdf rescan, vdg rescan")
	checkSparse(t, s)
	s.Check()
}

// wantQuiet checks that a run does not warn about what is the same every night.
func wantQuiet(t *testing.T, r backup.Result) {
	t.Helper()
	if said := fmt.Sprint(r.Notes, r.Warnings); strings.Contains(said, "bitmap") || len(r.Warnings) > 0 {
		t.Errorf("%s says %q, %q", r.Point.ID, r.Notes, r.Warnings)
	}
}

// scribble changes every disk in every way, at other places in each round: data
// and zeros over what was unallocated, data, or data of the backing file (in
// every other MiB), aligned or not to sectors, subclusters and clusters.
func scribble(s *testsite.Site, round int64) {
	s.T.Helper()
	const mib = 1 << 20
	at := (round - 1) * 4 * mib
	for _, d := range s.Disks {
		if d.Device == "cdrom" {
			continue
		}
		s.IO(d.Target,
			fmt.Sprintf("write -P %#x %d 64k", round, at),
			fmt.Sprintf("write -P %#x %d 3000", 0x10+round, at+200000),
			fmt.Sprintf("write -z %d 256k", at+512<<10),
			fmt.Sprintf("write -z %d 5k", at+128<<10+512),
			fmt.Sprintf("write -z -u %d 128k", at+2*mib),
			fmt.Sprintf("write -z -u %d 4k", at+2*mib+300<<10),
			fmt.Sprintf("discard %d 192k", at+2*mib+512<<10),
			fmt.Sprintf("write -P %#x %d 65k", 0x20+round, at+2*mib+700<<10),
			fmt.Sprintf("write -z 64k %d", 4096*round),               // over data of the first round
			fmt.Sprintf("write -z -u 4M %d", 32768*round),            // and over what was zeros
			fmt.Sprintf("write -P %#x %d 512", round, d.Size-512),    // the last sector
			fmt.Sprintf("write -P %#x %d 1", 0x30+round, d.Size-700)) // a single byte
	}
}

// checkSparse checks that an incremental holds what changed, not the whole disk.
func checkSparse(t *testing.T, s *testsite.Site) {
	t.Helper()
	for _, d := range s.Points[1].Disks {
		// Twelve requests, of a few clusters each.
		if d.DataBytes > 3<<20 {
			t.Errorf("%s of %s holds %d bytes of data", d.Target, s.Points[1].ID, d.DataBytes)
		}
		if d.ZeroBytes == 0 && d.Method == "" { // else only where the base has a whole cluster of data
			t.Errorf("%s of %s holds no zero clusters", d.Target, s.Points[1].ID)
		}
	}
}

// A domain whose disks cannot have bitmaps is still backed up incrementally, without any
// checkpoint.
func TestSourcesWithoutBitmaps(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8<<20 + 512, Format: "raw"},
		testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: oldImage(t, 8<<20)}))
	s.IO("vda", "write -P 1 1M 6M")
	s.Auto("full", "full: the first point of this domain")
	const rescanned = "vda rescan, vdb rescan"
	change := func() {
		n := len(s.Points)
		s.IO("vda", fmt.Sprintf("write -P %d %dk 100k", 2*n, 700*n), fmt.Sprintf("write -z %dk 200k", 1200*n))
		s.IO("vdb", fmt.Sprintf("write -P %d %dk 100k", 3*n, 650*n))
	}
	change()
	inc := s.BackUp(0, "inc").Point
	testsite.WantKinds(t, inc, rescanned)
	if d := testsite.DiskOf(t, inc, "vda"); inc.Parent != "check1" || d.DataBytes > 512<<10 || d.ZeroBytes == 0 {
		t.Errorf("the inc is since %s, and vda has %d bytes of data, %d of zeros", inc.Parent, d.DataBytes, d.ZeroBytes)
	}
	change()
	s.Auto("inc", "inc: compared with check2")
	change()
	diff := s.BackUp(0, "diff").Point
	testsite.WantKinds(t, diff, rescanned)
	change()
	since := s.BackUp(0, "inc", "--since", "check2", "--fallback", "fail").Point
	testsite.WantKinds(t, since, rescanned)
	if diff.Parent != "check1" || since.Parent != "check2" {
		t.Errorf("the diff is since %s, the inc since %s", diff.Parent, since.Parent)
	}
	change()
	testsite.WantKinds(t, s.BackUp(0, "inc", "--fallback", "full").Point, "vda full, vdb full")
	s.BackUp(0, "copy")
	s.BackUp(0, "full")
	if got := s.Checkpoints(); len(got) > 0 {
		t.Errorf("there are the checkpoints %v", got)
	}
	s.Check()
}

// A raw disk beside a qcow2 one: written, zeroed, discarded, grown, shrunk and
// grown again, every inc stores what differs, and no run complains.
func TestRawDisk(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 40<<20 + 512, Format: "raw"}))
	s.IO("vda", "write -P 0x11 0 8M")
	s.IO("vdb", "write -P 0x22 4M 30M", "write -P 0x23 40M 512")
	s.BackUp(0, "full")
	inc := func(change ...string) backup.Result {
		t.Helper()
		s.IO("vda", fmt.Sprintf("write -P %d %dk 64k", len(s.Points), 200*len(s.Points)))
		s.IO("vdb", append(change, "flush")...)
		got := s.BackUp(0, "inc")
		testsite.WantKinds(t, got.Point, "vda inc, vdb rescan")
		testsite.WantSmall(t, got, "vdb")
		wantQuiet(t, got)
		return got
	}
	resize := func(size int64) {
		t.Helper()
		testdomain.Virsh(t, "blockresize", s.Name, "vdb", fmt.Sprintf("%dB", size))
	}
	inc("write -P 0x33 5M 100k", "write -P 0x34 39M 3000")
	if got := testsite.DiskOf(t, inc("write -z 10M 1M", "discard 20M 2M", "write -z -u 24M 70k").Point, "vdb"); got.ZeroBytes < 3<<20 || got.DataBytes > 256<<10 {
		t.Errorf("vdb has %d bytes of zeros and %d of data, want the 3 MiB that were zeroed", got.ZeroBytes, got.DataBytes)
	}
	if got := testsite.DiskOf(t, inc().Point, "vdb"); got.DataBytes+got.ZeroBytes != 0 {
		t.Errorf("vdb has %d bytes of data and %d of zeros, although nothing has changed", got.DataBytes, got.ZeroBytes)
	}
	resize(48<<20 + 512)
	inc("write -P 0x44 48M 512", "write -P 0x45 41M 64k")
	resize(30<<20 + 1024)
	inc("write -P 0x55 30M 1024")
	resize(44 << 20)
	inc("write -P 0x66 43M 64k")
	s.IO("vdb", "write -P 0x77 1M 64k")
	testsite.WantKinds(t, s.BackUp(0, "diff").Point, "vda inc, vdb rescan")
	s.IO("vdb", "write -P 0x78 2M 64k")
	testsite.WantKinds(t, s.BackUp(0, "auto", "--fallback", "fail").Point, "vda inc, vdb rescan")
	testsite.WantKinds(t, s.BackUp(0, "inc", "--fallback", "full").Point, "vda inc, vdb full")
	testsite.WantKinds(t, s.BackUp(0, "inc", "--disk", "vdb").Point, "vdb rescan")
	s.Check()
}
