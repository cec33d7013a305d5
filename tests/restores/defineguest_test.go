package restores

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A guest runs again from a point after the whole directory that it was in is gone, with its
// kernel; and another one, of an older point, runs beside it.
func TestDefinedGuestBoots(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 * mib}))
	for _, text := range []string{"first", "second"} {
		s.WriteFile("/mnt/state", []byte(text))
		s.Program.Must(t, []int{0, 3}, map[string]string{"first": "full", "second": "inc"}[text], s.Name, "--quiesce", "require")
	}
	lose(s)
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.Dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(s.Dir, "again") // the guest's console is in s.Dir, and stays there
	result := defined(s, s.Name, dir, "--start")
	if len(result.Extras) != 2 {
		t.Errorf("restored besides: %v, want kernel and initrd", result.Extras)
	}
	s.AwaitGuest()
	if got := s.Exec("cat /mnt/state"); got != "second" {
		t.Errorf("the guest's file has %q", got)
	}
	if got := testdomain.Virsh(t, "dumpxml", s.Name); strings.Contains(got, s.Dir+"/vmlinuz") {
		t.Error("the guest's kernel is where it was")
	}
	if r := s.Program.Must(t, []int{0, 3}, "--json", "auto", s.Name); !strings.Contains(r.Stdout, `"check3"`) {
		t.Error("the backups do not go on")
	}

	name := testdomain.NewName()
	copyOf(s, name)
	beside := filepath.Join(testdomain.TempDir(t), "beside")
	other := defined(s, s.Name+"@check1", beside, "--name", name, "--start")
	d := s.Other(name, other.UUID, beside)
	d.AwaitGuest()
	if got := d.Exec("cat /mnt/state"); got != "first" {
		t.Errorf("the other guest's file has %q", got)
	}
	if got := s.Exec("cat /mnt/state"); got != "second" {
		t.Errorf("the guest's file has %q, beside the other guest", got)
	}
}
