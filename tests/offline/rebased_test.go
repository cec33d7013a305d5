package offline

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// onBase makes a domain that is off, with one disk on a backing file, and one point. It returns a
// copy of the backing file with other content at 4 MiB, where the overlay has nothing.
func onBase(t *testing.T) (s *testsite.Site, base, other string) {
	t.Helper()
	dir := testdomain.TempDir(t)
	base, other = filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "other.qcow2")
	top := filepath.Join(dir, "top.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "16M")
	testdomain.QemuIO(t, base, "qcow2", "write -P 0x41 0 1M")
	testdomain.Tool(t, "cp", base, other)
	testdomain.QemuIO(t, other, "qcow2", "write -P 0x42 4M 1M")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top, "16M")
	s = testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Source: top, Format: "qcow2"}))
	s.BackUp(0, "full")
	return s, base, other
}

// replacements are the ways by which the backing file of a disk becomes another one.
var replacements = map[string]func(t *testing.T, top, base, other string){
	"rebased": func(t *testing.T, top, _, other string) {
		testdomain.Tool(t, "qemu-img", "rebase", "-u", "-F", "qcow2", "-b", other, top)
	},
	"another file of its name": func(t *testing.T, _, base, other string) {
		testdomain.Tool(t, "mv", other, base)
	},
	"written to": func(t *testing.T, _, base, _ string) {
		testdomain.QemuIO(t, base, "qcow2", "write -P 0x42 4M 1M")
	},
	"one between": func(t *testing.T, top, base, other string) {
		testdomain.Tool(t, "qemu-img", "rebase", "-u", "-F", "qcow2", "-b", base, other)
		testdomain.Tool(t, "qemu-img", "rebase", "-u", "-F", "qcow2", "-b", other, top)
	},
}

// What the disk reads from another backing file is in no bitmap: the disk is compared, by an inc
// while it is off or runs, and by a restore in place.
func TestBackingFileReplaced(t *testing.T) {
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, base, other := onBase(t)
			replace(t, s.Disk("vda").Source, base, other)
			inc := s.BackUp(3, "inc")
			testsite.WantKinds(t, inc.Point, "vda rescan")
			testsite.WantSaid(t, inc.Warnings, "backing file")
			s.Start()
			s.Write("vda", 6*mib, mib, 6)
			testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
			testsite.WantKinds(t, s.BackUp(3, "diff", "--since", "check1").Point, "vda rescan")
			s.Check()
		})
		t.Run(name+", runs", func(t *testing.T) {
			t.Parallel()
			s, base, other := onBase(t)
			replace(t, s.Disk("vda").Source, base, other)
			s.Start()
			s.Write("vda", 6*mib, mib, 6)
			inc := s.BackUp(3, "inc")
			testsite.WantKinds(t, inc.Point, "vda rescan")
			testsite.WantSaid(t, inc.Warnings, "backing file")
			s.Check()
		})
		t.Run(name+", restored in place", func(t *testing.T) {
			t.Parallel()
			s, base, other := onBase(t)
			replace(t, s.Disk("vda").Source, base, other)
			s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
			testdomain.Same(t, s.Disk("vda").Source, "qcow2", s.Points[0].Truth["vda"])
			s.Check()
		})
	}
}

// A disk that had no backing file shows another one's content where its image has none.
func TestBackingFileAdded(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.BackUp(0, "full")
	base := filepath.Join(s.Dir, "base.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "16M")
	testdomain.QemuIO(t, base, "qcow2", "write -P 0x41 4M 1M")
	testdomain.Tool(t, "qemu-img", "rebase", "-u", "-F", "qcow2", "-b", base, s.Disk("vda").Source)
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan")
	s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	testdomain.Same(t, s.Disk("vda").Source, "qcow2", s.Points[0].Truth["vda"])
	s.Check()
}

// A file is replaced while QEMU has it open: what QEMU reads then is not what the domain has after its
// next start, and both are backed up as they are.
func TestFileReplacedWhileOpen(t *testing.T) {
	for _, which := range []string{"backing file", "image"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			s, base, other := onBase(t)
			if which == "image" {
				base = s.Disk("vda").Source
				testdomain.Tool(t, "cp", base, other)
				testdomain.QemuIO(t, other, "qcow2", "write -P 0x47 4M 1M")
			}
			s.Start()
			testdomain.Tool(t, "mv", other, base)
			r := s.Program.Must(t, []int{3}, "inc", s.Name)
			if !strings.Contains(r.Stderr, "was replaced or removed while the domain runs") {
				t.Error("it is not told")
			}
			s.Destroy()
			testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan")
			s.Check()
		})
	}
}
