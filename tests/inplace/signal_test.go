package inplace

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A signal ends it in order, and says what is left to do; the same command does it. Before
// anything is written there is nothing left to do.
func TestSignalInPlace(t *testing.T) {
	t.Parallel()
	s := small(t)
	testdomain.Virsh(t, "autostart", s.Name)
	args := []string{"restore", s.Name + "@check1", "--in-place", "--yes", "--no-save"}
	for _, point := range []string{"in place: compare", "in place: open before", "in place: write#1"} {
		r := faulty(t, s, []string{"VIRTBACKUP_FAULT=" + point + ":term"}, args...)
		written := point == "in place: write#1"
		if r.Code != 143 || strings.Contains(r.Stderr, "is restored in part") != written {
			t.Errorf("%s: exit %d", point, r.Code)
		}
		on := strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "Autostart:      enable")
		marks, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".mark-in-place*"))
		if on == written || len(marks) > 0 != written {
			t.Errorf("%s: autostart %v, marks %v", point, on, marks)
		}
	}
	s.Program.Must(t, []int{0, 3}, args...)
	wantPoint(t, s, pointOf(t, s, "check1"))
	if !strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "Autostart:      enable") {
		t.Error("autostart is off")
	}
}

// A disk that is a volume of a storage pool.
func TestVolume(t *testing.T) {
	t.Parallel()
	s := small(t)
	pool := filepath.Base(s.Dir)
	testdomain.Virsh(t, "pool-create-as", pool, "dir", "--target", s.Dir)
	t.Cleanup(func() { testdomain.Virsh(t, "pool-destroy", pool) })
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	file := filepath.Join(testdomain.TempDir(t), "volume.xml")
	for _, d := range s.Disks {
		at := strings.Index(doc, "<source file='"+d.Source+"'/>")
		start := strings.LastIndex(doc[:at], "<disk type='file'")
		doc = doc[:start] + strings.Replace(strings.Replace(doc[start:], "<disk type='file'", "<disk type='volume'", 1),
			"<source file='"+d.Source+"'/>", "<source pool='"+pool+"' volume='"+filepath.Base(d.Source)+"'/>", 1)
	}
	testsite.WriteFile(t, file, doc)
	testdomain.Virsh(t, "define", file)
	r := restored(t, s, "check1", "--no-save")
	wantPoint(t, s, pointOf(t, s, "check1"))
	if d := diskOf(t, r, "vda"); d.Path != s.Disk("vda").Source || d.Method != "bitmap" {
		t.Errorf("%+v", d)
	}
}
