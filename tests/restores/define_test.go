package restores

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// newSite is a domain with a qcow2 and a raw disk, which runs, and a full and an inc of it.
func newSite(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib},
		testdomain.Disk{Target: "vdb", Size: 8 * mib, Format: "raw"}, testdomain.Disk{Target: "hda", Device: "cdrom"}))
	s.Write("vda", 0, 3*mib, 0x11)
	s.Write("vdb", mib, mib, 0x12)
	s.BackUp(0, "full")
	s.Write("vda", 2*mib, 2*mib, 0x21)
	s.Write("vdb", 2*mib, mib, 0x22)
	s.BackUp(0, "inc")
	return s
}

// A domain that is gone with all its disks is defined again, with its UUID and its
// addresses, and its backups go on in the same directory.
func TestDefineAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	lose(s)
	dir := newDir(t)
	result := defined(s, s.Name+"@check1", dir, "--start")
	if result.Name != s.Name || result.UUID != s.UUID || !result.Started {
		t.Errorf("defined %s %s, started %v", result.Name, result.UUID, result.Started)
	}
	after := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	changed := strings.NewReplacer(filepath.Join(s.Dir, "vda.qcow2"), filepath.Join(dir, "vda.qcow2"), filepath.Join(s.Dir, "vdb.raw"), filepath.Join(dir, "vdb.raw"))
	if want := changed.Replace(before); after != want {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	s.Destroy()
	wantDisks(s, s.Name, dir, s.Points[0])
	wantForQEMU(t, dir)

	s.Start()
	for i := range s.Disks {
		if s.Disks[i].Device != "cdrom" {
			s.Disks[i].Source = filepath.Join(dir, filepath.Base(s.Disks[i].Source))
		}
	}
	s.Write("vda", 5*mib, mib, 0x31)
	if got := s.BackUp(3, "auto").Point; got.ID != "check3" || got.Kind == manifest.KindCopy {
		t.Errorf("auto made %s, a %s", got.ID, got.Kind)
	}
	s.Write("vda", 6*mib, mib, 0x32)
	if got := s.BackUp(0, "auto").Point; got.ID != "check4" || got.Kind != manifest.KindInc {
		t.Errorf("auto made %s, a %s", got.ID, got.Kind)
	}
	s.Check()
}

// wantForQEMU checks that nobody but QEMU's user, and root, reads the images.
func wantForQEMU(t *testing.T, dir string) {
	t.Helper()
	for path, mode := range map[string]os.FileMode{dir: 0o711, filepath.Dir(dir): 0o711, filepath.Join(dir, "vda.qcow2"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, mode)
		}
	}
}

// A point is defined under another name, and runs beside the original.
func TestDefineAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	name := testdomain.NewName()
	copyOf(s, name)
	dir := newDir(t)
	result := defined(s, s.Name, dir, "--name", name)
	if result.Name != name || result.UUID == s.UUID || result.Started {
		t.Errorf("defined %s %s, started %v", result.Name, result.UUID, result.Started)
	}
	wantDisks(s, name, dir, s.Points[1])
	testdomain.Virsh(t, "start", name, "--paused")
	if s.State() == "shut" {
		t.Error("the original does not run")
	}
	testdomain.Virsh(t, "destroy", name)
	s.Write("vda", 9*mib, mib, 0x41) // the original goes on
	s.BackUp(0, "inc")

	other := *s
	other.Domain = &testdomain.Domain{Name: name, UUID: result.UUID}
	testdomain.Virsh(t, "start", name, "--paused")
	if r := s.Program.Run(t, "--json", "auto", name); r.Code != 3 && r.Code != 0 || !strings.Contains(r.Stdout, `"check1"`) {
		t.Errorf("its first backup: %d %s", r.Code, r.Stderr)
	}
	s.Check()
}

// The format of a disk is that of the point, unless another is asked for.
func TestDefineFormats(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lose(s)
	for format, want := range map[string]string{"": "qcow2 raw", "raw": "raw raw", "qcow2": "qcow2 qcow2"} {
		dir := newDir(t)
		var args []string
		if format != "" {
			args = []string{"--format", format}
		}
		result := defined(s, s.Name, dir, append(args, "--start")...)
		if got := string(result.Disks[0].Format) + " " + string(result.Disks[1].Format); got != want {
			t.Errorf("--format %q made %s", format, got)
		}
		s.Destroy()
		wantDisks(s, s.Name, dir, s.Points[1])
		testdomain.Virsh(t, "undefine", s.Name)
	}
}

// What cannot be done is said before anything is written, all of it at once.
func TestDefineRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	name := testdomain.NewName()
	parent := testdomain.TempDir(t)
	dir := filepath.Join(parent, "dir")
	restore := func(args ...string) []string {
		return append([]string{"restore", s.Name, "--define", "--to", dir}, args...)
	}
	refuse := func(code int, message, hint string, args ...string) {
		t.Helper()
		s.Rejects(testsite.Reject(code, message, hint), args, parent)
	}
	refuse(1, "it is defined already", "--name NEW", restore()...)
	refuse(2, "is the name of the domain itself", "--name", restore("--name", s.Name)...)
	refuse(2, "cannot be the name of a domain", "--name", restore("--name", "a/b")...)
	refuse(2, "with all disks", "--disk", restore("--name", name, "--disk", "vda")...)
	refuse(2, "need --define", "--define", "restore", s.Name, "--to", dir, "--name", name)
	refuse(2, "--define needs --to", "--to DIR", "restore", s.Name, "--define")
	refuse(6, "check9", "", "restore", s.Name+"@check9", "--define", "--to", dir, "--name", name)

	other := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: mib})
	refuse(1, "there is another domain "+other.Name, "another --name", restore("--name", other.Name)...)

	private := filepath.Join(parent, "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{private, filepath.Join(private, "below")} {
		refuse(1, "cannot enter "+private, "setfacl -m u:", "restore", s.Name, "--define", "--name", name, "--to", in)
	}
	full := filepath.Join(parent, "full")
	if err := os.MkdirAll(filepath.Join(full, "file"), 0o711); err != nil {
		t.Fatal(err)
	}
	refuse(2, "is not empty", "--to", "restore", s.Name, "--define", "--name", name, "--to", full)
	refuse(2, "in the repository", "--to", "restore", s.Name, "--define", "--name", name, "--to", s.Repo+"/x")
}

// All that a host lacks is said at once. The domain's next configuration, which is in the
// point, is one of another host.
func TestDefineOnAnotherHost(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: mib}))
	s.Redefine("</devices>", "<interface type='bridge'><source bridge='vbnone0'/></interface><interface type='network'><source network='vbtest-none'/></interface>"+
		"<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='vbtest-none' volume='v'/><target dev='vdb' bus='virtio'/></disk>"+
		"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/var/tmp/vbtest-none.raw'/><target dev='vdc' bus='virtio'/></disk>"+
		"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/var/tmp/vbtest-none.iso'/><target dev='hdb' bus='ide'/></disk></devices>")
	s.BackUp(0, "full")
	lose(s)
	parent := testdomain.TempDir(t)
	r := s.Program.Must(t, []int{1}, "restore", s.Name, "--define", "--to", filepath.Join(parent, "dir"))
	s.WantRejected(r, testsite.Reject(1, "for 4 reasons", "nothing was written"))
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, what := range []string{"the bridge vbnone0 does not exist (", "the network vbtest-none does not exist (", "the storage pool vbtest-none does not exist (",
		"the storage of disk vdc, /var/tmp/vbtest-none.raw does not exist ("} {
		if !strings.Contains(r.Stderr, what) {
			t.Errorf("it does not say %q", what)
		}
	}
}

// A domain that has one of the images to be made as its disk would use it, too, also if it names it by
// a symbolic link.
func TestDefineOnTheDiskOfAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lose(s)
	dir := newDir(t)
	parent := filepath.Dir(dir)
	if err := os.Mkdir(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(testdomain.TempDir(t), "link")
	if err := os.Symlink(parent, link); err != nil {
		t.Fatal(err)
	}
	for _, as := range []string{parent, link} {
		source := filepath.Join(as, "vm", "vda.qcow2")
		other := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: mib, Source: source})
		s.WantRejected(s.Program.Must(t, []int{1}, "restore", s.Name, "--define", "--to", dir), testsite.Reject(1, "domain "+other.Name+" has "+source+" as a disk", "--to"))
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		testdomain.Virsh(t, "undefine", other.Name)
	}
}
