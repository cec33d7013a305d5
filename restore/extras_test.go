package restore

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// withExtras is a repository with a point that has UEFI variables and a kernel.
func withExtras(t *testing.T) *repository.Repository {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	must(t, err)
	lock, err := repo.Lock("vm1")
	must(t, err)
	addPoint(t, lock, 0, 1<<20, []int64{0}, make([]byte, cluster),
		manifest.Extra{Kind: manifest.ExtraNVRAM, File: "nvram.fd", Path: "/nvram/vm1_VARS.fd"}, manifest.Extra{Kind: manifest.ExtraKernel, File: "kernel"})
	must(t, lock.Unlock())
	return repo
}

func inDir(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestExtras(t *testing.T) {
	repo, dir := withExtras(t), filepath.Join(t.TempDir(), "out")
	result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir})
	must(t, err)
	if got := inDir(t, dir); !slices.Equal(got, []string{"kernel", "nvram.fd", "vda.qcow2", "vm1.xml"}) {
		t.Errorf("restored %q", got)
	}
	if len(result.Extras) != 2 || result.Extras[0].Restored != filepath.Join(dir, "nvram.fd") || result.Extras[0].Path != "/nvram/vm1_VARS.fd" {
		t.Errorf("result %+v", result.Extras)
	}
	for _, e := range result.Extras {
		if data, err := os.ReadFile(e.Restored); string(data) != e.File || err != nil {
			t.Errorf("%s: %q, %v", e.Restored, data, err)
		}
	}
}

// A damaged extra does not get anywhere. The disks are restored where they are named.
func TestDamagedExtra(t *testing.T) {
	repo, dir := withExtras(t), filepath.Join(t.TempDir(), "out")
	must(t, os.WriteFile(filepath.Join(repo.PointDir("vm1", "check1"), "nvram.fd"), []byte("nvram.fe"), 0o600))
	_, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir})
	if !fail.Is(err, fail.Damaged) || !strings.Contains(fail.HintOf(err), "--disk vda ") {
		t.Errorf("got %v, want damage, and a hint", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
	result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir, Disks: []string{"vda"}})
	must(t, err)
	if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "nvram.fd is not restored: ") {
		t.Errorf("warnings %q", result.Warnings)
	}
	if got := inDir(t, dir); !slices.Equal(got, []string{"kernel", "vda.qcow2", "vm1.xml"}) {
		t.Errorf("restored %q", got)
	}
}

// What a killed restore has left of them is known.
func TestExtrasOfAKilledRestore(t *testing.T) {
	repo, dir := withExtras(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, markerName), []byte(`{"names":["nvram.fd","nvram.fd.partial"]}`), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "nvram.fd.partial"), []byte("nv"), 0o600))
	_, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir})
	must(t, err)
	if got := inDir(t, dir); !slices.Equal(got, []string{"kernel", "nvram.fd", "vda.qcow2", "vm1.xml"}) {
		t.Errorf("restored %q", got)
	}
}
