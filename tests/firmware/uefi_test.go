//go:build firmware

package firmware

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

func TestMain(m *testing.M) { testdomain.Main(m) }

// UEFI firmware writes its variables while it boots a guest: points before, meanwhile and
// after have them as they were, and a guest that is restored from the last one boots with them.
func TestUEFI(t *testing.T) {
	s := testsite.New(t, testdomain.DefineUEFIGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	vars := filepath.Join(s.Dir, "vars.fd")
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	stored := func(m manifest.Manifest) []byte { return read(filepath.Join(s.Repo, s.Name, m.ID, "nvram.fd")) }

	s.Start()
	template := read(vars)
	if full := s.BackUp(0, "full"); !bytes.Equal(stored(full.Point), template) {
		t.Error("the full does not have the variables as they were before the boot")
	}
	testdomain.Virsh(t, "resume", s.Name)
	// One point after the other, until the firmware has written and is through.
	last, changes := template, 0
	for end := time.Now().Add(3 * time.Minute); !strings.Contains(serial(s.Dir), "GUEST-READY"); {
		if time.Now().After(end) {
			t.Fatalf("the guest is not up: %s", serial(s.Dir))
		}
		m := s.BackUp(0, "inc").Point
		if got := stored(m); !bytes.Equal(got, last) {
			last, changes = got, changes+1
		}
		s.Points = s.Points[:1] // the guest may have written since the truth was taken
		time.Sleep(500 * time.Millisecond)
	}
	t.Logf("%d of the points have other variables than the one before", changes)
	s.AwaitGuest()
	testdomain.Virsh(t, "suspend", s.Name)
	after := s.BackUp(0, "inc").Point
	want := read(vars)
	if got := stored(after); !bytes.Equal(got, want) || bytes.Equal(got, template) {
		t.Errorf("the last point has not the variables that the firmware has written: as the file %v, as the template %v",
			bytes.Equal(got, want), bytes.Equal(got, template))
	}
	s.Program.Must(t, nil, "verify", s.Name)
	// A drill boots with a copy of the variables.
	s.Program.Must(t, nil, "drill", s.Name+"@"+after.ID, "--timeout", "4m")
	if !bytes.Equal(read(vars), want) {
		t.Error("a drill has written to the variables of the original")
	}
	testdomain.Virsh(t, "destroy", s.Name)

	dir := testdomain.TempDir(t)
	s.Program.Must(t, nil, "--quiet", "restore", s.Name+"@"+after.ID, "--to", filepath.Join(dir, "restored"))
	restoredBoots(t, s, dir)
}

// restoredBoots boots a guest from restored files alone.
func restoredBoots(t *testing.T, s *testsite.Site, dir string) {
	t.Helper()
	restored := filepath.Join(dir, "restored")
	doc, err := os.ReadFile(filepath.Join(restored, s.Name+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer("<name>"+s.Name, "<name>"+s.Name+"-restored", "<uuid>"+s.UUID+"</uuid>", "",
		s.Dir+"/vars.fd", restored+"/nvram.fd", s.Dir+"/vmlinuz", restored+"/kernel", s.Dir+"/initrd.gz", restored+"/initrd",
		s.Disk("vda").Source, restored+"/vda.qcow2", s.Dir+"/serial.log", restored+"/serial.log")
	if err := os.Rename(s.Dir, s.Dir+".away"); err != nil { // nothing of the original is used
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(s.Dir+".away", s.Dir) })
	testdomain.Tool(t, "chmod", "-R", "a+rX", restored)
	definition := filepath.Join(dir, "restored.xml")
	testsite.WriteFile(t, definition, replace.Replace(string(doc)))
	testdomain.Virsh(t, "create", definition)
	t.Cleanup(func() {
		testdomain.Virsh(t, "destroy", s.Name+"-restored")
		testdomain.RemoveLogs(s.Name + "-restored")
	})
	for end := time.Now().Add(3 * time.Minute); !strings.Contains(serial(restored), "GUEST-READY"); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("the restored guest is not up: %s", serial(restored))
		}
	}
}

func serial(dir string) string {
	data, _ := os.ReadFile(filepath.Join(dir, "serial.log"))
	return string(data)
}
