package pull

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

// A scratch file that this process cannot make is no matter of QEMU's user: the error names
// the file, and the hint the directory.
func TestScratchFileCannotBeMade(t *testing.T) {
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Unlock() })
	dir := filepath.Join(t.TempDir(), "none")
	d := &guest.LockedDomain{Domain: new(fakelibvirt.Host).Define("vm1", 1<<20, "vda"), Repo: repo, Lock: lock, ScratchDir: dir}
	s := New(d, source.Options{ScratchDir: dir}, func(string) {})
	s.job = source.Job{Instant: instants.Instant{Identity: "0123456789abcdef"}, Disks: []source.JobDisk{{Target: "vda"}}}
	err = s.makeScratchFiles()
	if err == nil || !strings.Contains(err.Error(), "scratch file of disk vda of domain vm1: open "+dir) || !strings.Contains(fail.HintOf(err), dir) {
		t.Errorf("%v, hint %q", err, fail.HintOf(err))
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it has made the directory")
	}
}
