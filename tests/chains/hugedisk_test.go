package chains

import (
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A disk of 17 TiB is larger than a file on ext4 can be: a restore to raw is refused before
// anything is written, a restore to qcow2 takes only the space of the data.
func TestRawRestoreOfAHugeDisk(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 17 << 40}, testdomain.Disk{Target: "vdb", Size: 1 << 20}))
	s.Write("vda", 17<<40-1<<20, 64<<10, 0x41)
	s.Write("vdb", 0, 64<<10, 0x42)
	s.Init()
	s.Program.Must(t, nil, "full", s.Name)
	at := testsite.Mounted(t, "ext4", 64)
	to := filepath.Join(at, "new", "vm")
	s.Rejects(testsite.Reject(1, "raw image of disk vda of "+s.Name+"@check1 has 18691697672192 bytes: the file system of "+to+" cannot hold", "--format qcow2"),
		[]string{"restore", s.Name, "--to", to, "--format", "raw"}, at)
	s.Program.Must(t, nil, "restore", s.Name, "--to", to, "--format", "raw", "--disk", "vdb")
	to = filepath.Join(at, "new", "again")
	s.Program.Must(t, nil, "restore", s.Name, "--to", to)
	testdomain.Tool(t, "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x41 18691696623616 64k", filepath.Join(to, "vda.qcow2"))
}
