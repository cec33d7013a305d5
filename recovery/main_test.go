package recovery

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// TestMain can make the test binary act as another run: if this variable is set, it issues an
// identity in the repository named there, prints that, and waits to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("RECOVERY_TEST_ISSUE"); dir != "" {
		issueAndWait(dir)
	}
	testdomain.Main(m)
}

func issueAndWait(dir string) {
	repo, err := repository.Open(dir)
	if err == nil {
		var lock *repository.Lock
		if lock, err = repo.Lock("vm1"); err == nil {
			_, err = lock.Issue(instants.Instant{Point: "check1", Identity: other, Checkpoint: true})
			err = errors.Join(err, lock.Unlock())
		}
	}
	fmt.Println("issued:", err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

const (
	own   = "0000000000000001"
	other = "0000000000000002"
)

// locked is a domain with helpers for tests.
type locked struct{ *guest.LockedDomain }

// newLocked is a locked directory of a new repository, for a domain that is not used.
func newLocked(t *testing.T) *locked {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Unlock() })
	return &locked{&guest.LockedDomain{Repo: repo, Lock: lock}}
}

// issue records an instant of check1.
func (s *locked) issue(t *testing.T, identity string) instants.Instant {
	t.Helper()
	i, err := s.Lock.Issue(instants.Instant{Point: "check1", Identity: identity, Checkpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	return i
}
