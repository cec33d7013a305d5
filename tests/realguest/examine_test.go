//go:build realguest

package realguest

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// examine boots a point beside the guest that it was made of, and examines the system.
func examine(t *testing.T, s *testsite.Site, l *ledger, p made) {
	t.Helper()
	d := bringUp(t, s, p.Point)
	serial := serialLog(t, d.Name)
	t.Cleanup(func() { keepSerial(t, p.ID, serial) })
	d.AwaitSystem()
	wantStart(t, serial, p.off)
	rows := ledgerRows(t, d)
	t.Logf("the ledger of %s ends with row %d, want one from %d to %d", p.ID, len(rows)-1, p.first, p.last)
	if err := l.check(rows, p.first, p.last); err != nil {
		t.Error(err)
	}
	checkDatabase(t, d)
	checkFileSystems(t, d)
}

// wantStart checks how PostgreSQL has started: it has to recover what was copied while it ran,
// also from a frozen file system, but not what was copied of a guest that was off.
func wantStart(t *testing.T, serial string, off bool) {
	t.Helper()
	words := "automatic recovery in progress"
	if off {
		words = "database system was shut down at"
	}
	text, err := os.ReadFile(serial)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), words) {
		t.Errorf("PostgreSQL does not say %q in the serial log", words)
	}
}

// checkFileSystems shuts the guest down, and lets e2fsck and xfs_repair check its file systems.
func checkFileSystems(t *testing.T, d *testdomain.Domain) {
	t.Helper()
	const complaints = "EXT4-fs (error|warning)|XFS.*([Cc]orrupt|[Ee]rror)|I/O error"
	if errs := d.Exec("dmesg | grep -E '" + complaints + "' || true"); errs != "" {
		t.Errorf("the kernel says: %s", errs)
	}
	d.PowerOff()
	raw := filepath.Join(testdomain.TempDir(t), "raw")
	testdomain.Flatten(t, d.Disk("vda").Source, raw)
	testdomain.Tool(t, "e2fsck", "-fn", raw)
	testdomain.Flatten(t, d.Disk("vdb").Source, raw)
	testdomain.Tool(t, "xfs_repair", "-n", "-f", raw)
}

var serialPath = regexp.MustCompile(`<serial type='file'>\s*<source path='([^']*)'`)

// serialLog is the file that a domain's serial console is written to.
func serialLog(t *testing.T, name string) string {
	t.Helper()
	m := serialPath.FindStringSubmatch(testdomain.Virsh(t, "dumpxml", name))
	if m == nil {
		t.Fatalf("domain %s has no serial console in a file", name)
	}
	return m[1]
}

// keptDir is where the serial logs of points are kept that have failed.
func keptDir(t *testing.T) string { return filepath.Join(testdomain.Root(t), ".cache/realguest") }

// keepSerial keeps the serial log of a point that has failed, or of the guest.
func keepSerial(t *testing.T, name, serial string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	kept := filepath.Join(keptDir(t), name+".serial.log")
	text, err := os.ReadFile(serial)
	if err = errors.Join(err, os.MkdirAll(keptDir(t), 0o755), os.WriteFile(kept, text, 0o644)); err != nil {
		t.Error(err)
	}
	t.Logf("%s has failed; its serial log is %s", name, kept)
}
