package instant

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// A domain that has run, and that somebody has undefined, has written what is nowhere else: recover
// leaves its images for a person to decide.
func TestUndefinedAfterItRan(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	p := r.slow()
	r.write(write{3*mib + 4096, 70000, 0x61})
	killed(p)
	testdomain.Virsh(t, "destroy", r.Domain.Name)
	testdomain.Virsh(t, "undefine", r.Domain.Name)
	r.Program.Run(t, "recover", r.Site.Name)
	if _, err := os.Stat(filepath.Join(r.dir, "vda.qcow2")); err != nil {
		t.Errorf("what the guest has written is gone: %v", err)
	}
}

// A domain that stands alone is not taken away by the pin in an older copy of the repository.
func TestOldCopyDoesNotTakeAwayWhatStandsAlone(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	p := r.slow()
	killed(p)
	old := filepath.Join(testdomain.TempDir(t), "repo")
	testdomain.Tool(t, "cp", "-a", r.Repo, old)
	r.Program.Must(t, nil, r.resume()...)
	for _, args := range [][]string{{"--abandon", "--yes"}, {"--resume"}} {
		if ended := r.Program.Run(t, append([]string{"--repo", old, "restore", r.Site.Name, "--to", r.dir}, args...)...); ended.Code != 1 || !strings.Contains(ended.Stderr, "is a copy of the one") {
			t.Errorf("%q with a copy of the repository: exit %d", args, ended.Code)
		}
	}
	if _, err := os.Stat(filepath.Join(r.dir, "vda.qcow2")); err != nil {
		t.Errorf("the domain that stood alone is gone: %v", err)
	}
}

// The domain that was backed up is gone, as on a bad day; another one runs from its point. recover --all
// names it.
func TestRecoverAllWithoutTheSource(t *testing.T) {
	t.Parallel()
	r := left(t)
	testdomain.Virsh(t, "undefine", r.Site.Name, "--checkpoints-metadata")
	if all := r.Program.Run(t, "recover", "--all"); all.Code != 3 || !strings.Contains(all.Stdout+all.Stderr, "--resume goes on") {
		t.Errorf("while it runs from the point: exit %d", all.Code)
	}
	r.Program.Must(t, nil, r.resume()...)
	r.wantNothingLeft("")
	if all := r.Program.Run(t, "recover", "--all"); all.Code != 0 || !strings.Contains(all.Stderr, "its points are kept") {
		t.Errorf("when it stands alone: exit %d", all.Code)
	}
}
