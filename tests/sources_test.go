package tests

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// oldImage makes a qcow2 image of version 2, which has no bitmaps.
func oldImage(t *testing.T, size int64) string {
	t.Helper()
	image := filepath.Join(testdomain.TempDir(t), "old.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", image, strconv.FormatInt(size, 10))
	return image
}

// Every kind of source image is backed up and restored as it was, and those
// without bitmaps do not spoil the others.
func TestSources(t *testing.T) {
	t.Parallel()
	const size = 24 << 20
	s := newSite(t, testdomain.New(t,
		testdomain.Disk{Target: "vda", Size: size, ClusterSize: 4 << 10},
		testdomain.Disk{Target: "vdb", Size: size + 512, ClusterSize: 2 << 20},
		testdomain.Disk{Target: "vdc", Size: size + 3*512, Backing: "qcow2"},
		testdomain.Disk{Target: "vdd", Size: size, Backing: "raw", ClusterSize: 4 << 10},
		testdomain.Disk{Target: "vde", Size: size + 7*512, Subclusters: true, ClusterSize: 128 << 10, Backing: "qcow2"},
		testdomain.Disk{Target: "vdf", Size: size + 512, Format: "raw"},
		testdomain.Disk{Target: "vdg", Size: size, Source: oldImage(t, size)},
		testdomain.Disk{Target: "hda", Device: "cdrom"}))
	s.scribble(1)
	s.backUp(0, "full")
	s.scribble(2)
	inc := s.backUp(0, "inc")
	wantKinds(t, inc.Point, "vda inc, vdb inc, vdc inc, vdd inc, vde inc, vdf full, vdg full")
	wantSaid(t, inc.Notes, "disk vdf is copied in full every time: a raw image has no bitmaps")
	wantSaid(t, inc.Notes, "disk vdg is copied in full every time: a qcow2 v2 image has no bitmaps")
	if reason := disk(t, inc.Point, "vdf").Reason; reason == "" {
		t.Error("the manifest does not say why vdf is copied in full")
	}
	s.scribble(3)
	wantKinds(t, s.backUp(0, "diff", "--since", "check1").Point, "vda inc, vdb inc, vdc inc, vdd inc, vde inc, vdf full, vdg full")
	s.scribble(4)
	wantKinds(t, s.backUp(0, "auto").Point, "vda inc, vdb inc, vdc inc, vdd inc, vde inc, vdf full, vdg full")
	checkSparse(t, s)
	s.check()
}

// scribble changes every disk in every way, at other places in each round: data
// and zeros over what was unallocated, data, or data of the backing file (in
// every other MiB), aligned or not to sectors, subclusters and clusters.
func (s *site) scribble(round int64) {
	s.t.Helper()
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

// checkSparse sees that an incremental holds what changed, not the disk.
func checkSparse(t *testing.T, s *site) {
	t.Helper()
	for _, d := range s.points[1].Disks[:5] {
		// Twelve requests, of a few clusters each.
		if d.DataBytes > 3<<20 {
			t.Errorf("%s of %s holds %d bytes of data", d.Target, s.points[1].ID, d.DataBytes)
		}
		if d.ZeroBytes == 0 {
			t.Errorf("%s of %s holds no zero clusters", d.Target, s.points[1].ID)
		}
	}
}

// A domain whose disks cannot have bitmaps is backed up in full, and is told why.
func TestSourcesWithoutBitmaps(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8<<20 + 512, Format: "raw"},
		testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: oldImage(t, 8<<20)}))
	s.IO("vda", "write -P 1 1M 100k")
	full := s.backUp(0, "full")
	wantSaid(t, full.Notes, "no checkpoint")
	if full.Point.Checkpoint != "" {
		t.Errorf("the point has the checkpoint %s", full.Point.Checkpoint)
	}
	s.refused(6, "has no bitmaps", "inc", s.Name)
	s.refused(6, "none of its disks could have bitmaps", "inc", s.Name, "--since", "check1")
	s.refused(6, "has no bitmaps", "diff", s.Name)
	s.IO("vda", "write -P 2 2M 100k")
	s.IO("vdb", "write -P 3 2M 100k")
	auto := s.backUp(0, "auto")
	if auto.Point.Kind != "full" || auto.Why == "" {
		t.Errorf("auto made a %s: %q", auto.Point.Kind, auto.Why)
	}
	s.backUp(0, "copy")
	if got := s.Checkpoints(); len(got) > 0 {
		t.Errorf("there are the checkpoints %v", got)
	}
	s.check()
}
