package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/repository"
)

// Points that cannot be read are not "no points yet": somebody might make new ones, or
// look elsewhere.
func TestListOfDamagedPointsAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	if _, err := repository.Create(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "vm1", "check1"), 0o700); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{"list": "", "list vm1": "", "list --quiet": "", "list --json": "[]\n"} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append([]string{"virtbackup", "--repo", dir}, strings.Fields(args)...), &stdout, &stderr)
		if code != 5 || !strings.Contains(stderr.String(), "point check1 of domain vm1 is damaged") {
			t.Errorf("%s: exit %d, %s", args, code, stderr.String())
		}
		if want != "[]\n" && stdout.String() != want || want == "[]\n" && !strings.HasPrefix(stdout.String(), "[]") {
			t.Errorf("%s: %q", args, stdout.String())
		}
	}
}
