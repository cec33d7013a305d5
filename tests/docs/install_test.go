package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// make install installs the program, and units that systemd accepts and that call the program
// at its installed path.
func TestInstall(t *testing.T) {
	prefix := testdomain.TempDir(t)
	testdomain.Tool(t, "make", "-s", "-C", testdomain.Root(t), "install", "PREFIX="+prefix)
	units := filepath.Join(prefix, "lib/systemd/system")
	for _, name := range []string{"virtbackup@.service", "virtbackup@.timer"} {
		if out := testdomain.Tool(t, "systemd-analyze", "verify", filepath.Join(units, name)); out != "" {
			t.Errorf("systemd-analyze verify %s: %s", name, out)
		}
	}
	service, err := os.ReadFile(filepath.Join(units, "virtbackup@.service"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nExecStart=" + prefix + "/bin/virtbackup auto %i\n"; !strings.Contains(string(service), want) {
		t.Errorf("the service lacks %q", want)
	}
	testdomain.Tool(t, filepath.Join(prefix, "bin/virtbackup"), "--version")
}

// make install writes below DESTDIR, and the units do not contain it.
func TestInstallDestdir(t *testing.T) {
	destdir := testdomain.TempDir(t)
	testdomain.Tool(t, "make", "-s", "-C", testdomain.Root(t), "install", "DESTDIR="+destdir, "PREFIX=/usr")
	service, err := os.ReadFile(filepath.Join(destdir, "usr/lib/systemd/system/virtbackup@.service"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(service), "\nExecStart=/usr/bin/virtbackup auto %i\n") {
		t.Error("the service does not call /usr/bin/virtbackup")
	}
}
