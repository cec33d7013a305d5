package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/repository"
)

// While another run has the lock of the domain, nothing changes its points: exit code 4.
func TestLocked(t *testing.T) {
	repo, err := repository.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	for _, line := range []string{"prune vm1 --keep-last 3", "prune --all --keep-last 3", "prune vm1 --undo check1", "prune vm1 --remove check1", "prune vm1 --materialise check1",
		"protect vm1@check1", "unprotect vm1@check1"} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"virtbackup", "--repo", repo.Dir()}, strings.Fields(line)...)
		if code := run(context.Background(), args, &stdout, &stderr); code != exitLocked || !strings.Contains(stderr.String(), "hint: ") {
			t.Errorf("%s: exit %d, %s", line, code, stderr.String())
		}
	}
}
