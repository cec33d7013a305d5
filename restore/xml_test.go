package restore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// A point whose domain.xml is damaged is not restored as a whole; its disks are, where
// they are named.
func TestDamagedXML(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"changed": func(path string) error { return os.WriteFile(path, []byte("<domaim/>"), 0o600) },
		"missing": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
			must(t, spoil(filepath.Join(repo.PointDir("vm1", "check1"), manifest.DomainXML)))
			dir := filepath.Join(t.TempDir(), "out")
			_, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir})
			if !fail.Is(err, fail.Damaged) || !strings.Contains(fail.HintOf(err), "restore vm1 --at check1 --to DIR --disk vda ") {
				t.Errorf("without --disk: got %v, want damage, and a hint", err)
			}
			result, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir, Disks: []string{"vda"}})
			must(t, err)
			if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "vm1/check1/domain.xml: ") || result.XML != "" {
				t.Errorf("got %+v, want a warning that names the file", result)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "vda.qcow2" {
				t.Errorf("restored %v, %v, want the image alone", left, err)
			}
		})
	}
}
