package offline

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// withDataFile makes a domain that is off, whose disk has its data in a raw file beside the image that
// has the bitmaps.
func withDataFile(t *testing.T) (s *testsite.Site, data string) {
	t.Helper()
	dir := testdomain.TempDir(t)
	data, top := filepath.Join(dir, "data.raw"), filepath.Join(dir, "top.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+data+",data_file_raw=on", top, "16M")
	testdomain.QemuIO(t, top, "qcow2", "write -P 0x41 0 1M")
	return testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Source: top, Format: "qcow2"})), data
}

// A copy in place of the data file of an image has what was written to the copy, or lacks what was
// written since it was made, and the bitmaps are in the image, which is the same: the disk is compared.
func TestDataFileReplaced(t *testing.T) {
	t.Parallel()
	s, data := withDataFile(t)
	s.BackUp(0, "full")
	testdomain.QemuIO(t, s.Disk("vda").Source, "qcow2", "write -P 0x42 2M 1M")
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc") // the same file
	testdomain.Tool(t, "cp", data, data+".new")
	testdomain.QemuIO(t, data+".new", "raw", "write -P 0x43 8M 1M")
	testdomain.Tool(t, "mv", data+".new", data)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan")
	testsite.WantSaid(t, inc.Warnings, "was replaced by another file since")
	s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	testdomain.Same(t, s.Disk("vda").Source, "qcow2", s.Points[0].Truth["vda"])
	s.Check()
}

// The data file is replaced while QEMU has it open: what QEMU reads then is not what the domain has after
// its next start, and both are backed up as they are.
func TestDataFileReplacedWhileOpen(t *testing.T) {
	t.Parallel()
	s, data := withDataFile(t)
	s.BackUp(0, "full")
	testdomain.Tool(t, "cp", data, data+".new")
	testdomain.QemuIO(t, data+".new", "raw", "write -P 0x43 8M 1M")
	testdomain.Tool(t, "chmod", "666", data, data+".new") // libvirt 9.0 does not give it to QEMU
	truth := s.Truths()
	s.Start()
	testdomain.Tool(t, "mv", data+".new", data)
	r := s.Program.Must(t, []int{3}, "--json", "inc", s.Name)
	if !strings.Contains(r.Stderr, data+" was replaced or removed while the domain runs") {
		t.Error("it is not told")
	}
	s.Add(r, truth)
	s.Destroy()
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan")
	s.Check()
}

// While the image is read nobody may write to its data file, and who does it without QEMU's locks is
// noticed.
func TestWriterToADataFile(t *testing.T) {
	t.Parallel()
	s, data := withDataFile(t)
	wantFailed(s, "step copy after", "full", "data.raw was changed while it was read", func() {
		if out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 4k", data).CombinedOutput(); !strings.Contains(string(out), `Failed to get "write" lock`) {
			t.Errorf("a writer: %v, %s", err, out)
		}
		testdomain.Tool(t, "dd", "if=/dev/zero", "of="+data, "bs=1k", "count=1", "conv=notrunc")
	})
}
