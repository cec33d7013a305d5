package inplace

import (
	"testing"

	"github.com/virtbackup/virtbackup/restore/inplace"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// Where the point's own bitmap is gone, that of a later one is used, and what the images in between
// have.
func TestBitmapOfALaterPoint(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.IO("vda", "write -P 0x11 0 8M")
	s.BackUp(0, "full")
	s.IO("vda", "write -P 0x12 2M 64k", "write -P 0x12 10M 64k")
	s.BackUp(0, "inc")
	s.IO("vda", "write -P 0x13 3M 64k")
	s.BackUp(0, "inc")
	s.IO("vda", "write -P 0x14 4M 64k")
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check1", "--force")
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check2", "--force")
	s.Destroy()
	byBitmap(t, s, "check1", "by the bitmap since check3")
}

// The bitmap is of a point in another branch: the image was rolled back, as a copy of it was written
// over it. What the restored point's own images have is written, too.
func TestBitmapOfAnotherBranch(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.IO("vda", "write -P 0x11 0 8M")
	s.BackUp(0, "full")
	s.Destroy()
	source := s.Disk("vda").Source
	testdomain.Tool(t, "cp", source, source+".old")
	testdomain.QemuIO(t, source, "qcow2", "write -P 0x12 2M 64k")
	s.BackUp(0, "inc")
	testdomain.Tool(t, "dd", "status=none", "bs=1M", "if="+source+".old", "of="+source)
	testdomain.QemuIO(t, source, "qcow2", "write -P 0x13 3M 64k")
	s.BackUp(0, "inc", "--since", "check1")
	testdomain.QemuIO(t, source, "qcow2", "write -P 0x14 4M 64k")
	byBitmap(t, s, "check2", "by the bitmap since check3")
}

// byBitmap restores a point, by a bitmap, which writes less than a quarter of the disk.
func byBitmap(t *testing.T, s *testsite.Site, id, by string) {
	t.Helper()
	r := restored(t, s, id, "--no-save")
	wantPoint(t, s, pointOf(t, s, id))
	if d := diskOf(t, r, "vda"); d.Method != inplace.MethodBitmap || d.By != by || d.Bytes > 4*mib {
		t.Errorf("%+v", d)
	}
}

// Disks that have changed places have bitmaps of the same name, which show what has changed since
// another content.
func TestBitmapOfAnotherDisk(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	s.IO("vda", "write -P 0x11 0 4M")
	s.IO("vdb", "write -P 0x22 2M 4M")
	s.BackUp(0, "full")
	s.Destroy()
	a, b := s.Disk("vda").Source, s.Disk("vdb").Source
	s.Redefine("'"+a+"'", "'/nowhere'")
	s.Redefine("'"+b+"'", "'"+a+"'")
	s.Redefine("'/nowhere'", "'"+b+"'")
	s.Disks[0].Source, s.Disks[1].Source = b, a
	r := restored(t, s, "check1", "--no-save")
	wantPoint(t, s, pointOf(t, s, "check1"))
	if d := diskOf(t, r, "vda"); d.Method != inplace.MethodCompare {
		t.Errorf("%+v", d)
	}
}
