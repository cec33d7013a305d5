package docs

import (
	"os"
	"path/filepath"
	"regexp"
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
	for name, arguments := range map[string]string{"virtbackup": "auto %i", "virtbackup-prune": "prune %i $VIRTBACKUP_KEEP"} {
		for _, unit := range []string{name + "@.service", name + "@.timer"} {
			if out := testdomain.Tool(t, "systemd-analyze", "verify", filepath.Join(units, unit)); out != "" {
				t.Errorf("systemd-analyze verify %s: %s", unit, out)
			}
		}
		service, err := os.ReadFile(filepath.Join(units, name+"@.service"))
		if err != nil {
			t.Fatal(err)
		}
		if want := "\nExecStart=" + prefix + "/bin/virtbackup " + arguments + "\n"; !strings.Contains(string(service), want) {
			t.Errorf("%s@.service lacks %q", name, want)
		}
	}
	testdomain.Tool(t, filepath.Join(prefix, "bin/virtbackup"), "--version")
	wantDocuments(t, filepath.Join(prefix, "share/doc/virtbackup"))
}

// wantDocuments wants the documents that messages name (docs/format.md) in dir, and each
// link from one document to another to lead to one that is installed, too.
func wantDocuments(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([\w/.-]+)\)`)
	links := 0
	for _, file := range append(files, filepath.Join(dir, "README.md"), filepath.Join(dir, "docs/format.md")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if links < 8 {
		t.Errorf("only %d links", links)
	}
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
