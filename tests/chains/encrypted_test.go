package chains

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// passphrase of the disks of encryptedSite.
const passphrase = "not a secret"

// encryptedSite is a domain whose vda is a LUKS-encrypted qcow2 image; vdb is
// not encrypted.
func encryptedSite(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20}))
	image := s.Disk("vda").Source
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	create := []string{"create", "-q", "--object", "secret,id=s,data=" + passphrase, "-f", "qcow2",
		"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", image, fmt.Sprint(s.Disk("vda").Size)}
	// On a shared machine it sometimes reports "Unable to get accurate CPU usage", which it
	// counts iterations by.
	for try := 0; testdomain.TryTool(t, "qemu-img", create...) != nil; try++ {
		if try == 20 {
			t.Fatal("qemu-img makes no encrypted image")
		}
		_ = os.Remove(image) // it may exist in part
	}
	uuid := defineSecret(s, image)
	old := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	file := filepath.Join(s.Dir, "encrypted.xml")
	source := fmt.Sprintf("<source file='%s'", image)
	i := strings.Index(old, source)
	if i < 0 {
		t.Fatalf("no %s in %s", source, old)
	}
	testsite.WriteFile(t, file, old[:i]+fmt.Sprintf("<source file='%s'><encryption format='luks'><secret type='passphrase' uuid='%s'/></encryption></source>", image, uuid)+
		old[i+strings.Index(old[i:], ">")+1:])
	testdomain.Virsh(t, "define", file)
	s.Start()
	return s
}

// defineSecret gives libvirt the passphrase for an image, and returns the secret's UUID: that of
// the domain, which nothing else has.
func defineSecret(s *testsite.Site, image string) string {
	s.T.Helper()
	file := filepath.Join(s.Dir, "secret.xml")
	testsite.WriteFile(s.T, file, fmt.Sprintf("<secret ephemeral='yes' private='yes'><uuid>%s</uuid><usage type='volume'><volume>%s</volume></usage></secret>", s.UUID, image))
	testdomain.Virsh(s.T, "secret-define", file)
	s.T.Cleanup(func() { testdomain.Virsh(s.T, "secret-undefine", s.UUID) })
	testsite.WriteFile(s.T, file, passphrase)
	testdomain.Virsh(s.T, "secret-set-value", s.UUID, "--file", file, "--plain")
	return s.UUID
}

// A disk that is encrypted at its source is stored in plain text. The first point of a chain
// warns about that, and show says it for each point.
func TestEncryptedSource(t *testing.T) {
	t.Parallel()
	s := encryptedSite(t)
	s.Write("vda", 1<<20, 1<<20, 0x41)
	const words = "disk vda is encrypted at its source, and stored in the clear"
	for i, c := range []struct {
		code int
		kind string
	}{{3, "full"}, {0, "inc"}, {0, "diff"}, {0, "auto"}, {3, "copy"}} {
		r := s.Program.Must(t, []int{c.code}, "--json", c.kind, s.Name)
		result := s.Add(r, nil)
		if said := slices.ContainsFunc(result.Warnings, func(w string) bool { return strings.Contains(w, words) }); said != (c.code == 3) {
			t.Errorf("%s: warnings %q", c.kind, result.Warnings)
		}
		if strings.Contains(strings.Join(result.Notes, " "), words) {
			t.Errorf("%s: it is no news, and noted: %q", c.kind, result.Notes)
		}
		if a, b := testsite.DiskOf(t, result.Point, "vda").SourceEncrypted, testsite.DiskOf(t, result.Point, "vdb").SourceEncrypted; !a || b {
			t.Errorf("%s: the manifest says encrypted of vda %v, of vdb %v", c.kind, a, b)
		}
		show := s.Program.Must(t, nil, "show", s.Name+"@"+result.Point.ID).Stdout
		if strings.Count(show, "encrypted at its source, stored in the clear") != 1 {
			t.Errorf("%s: show says\n%s", c.kind, show)
		}
		testdomain.QemuIO(t, s.Image(s.Points[i].Manifest, "vda"), "qcow2", "read -P 0x41 1M 1M")
	}
	s.Destroy() // and with it the only program that has the key
	s.Rejects(testsite.Reject(1, "disk vda of domain "+s.Name+" can be read only while the domain runs: it is encrypted", "--exclude vda leaves the disk out"),
		[]string{"--quiet", "inc", s.Name})
	s.Program.Must(t, nil, "inc", s.Name, "--exclude", "vda")
}
