package damage

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// everyByte flips every byte of the small files, one at a time, and expects the check of that
// file alone to notice.
func everyByte(t *testing.T, s *testsite.Site, n *counts) {
	b := newBed(t, s)
	repo, err := repository.Open(b.Repo)
	if err != nil {
		t.Fatal(err)
	}
	first, step := 0, 1
	if !testsite.AllFaults() {
		step = 3
		first = rand.New(rand.NewPCG(testsite.NewSeed(t), 4)).IntN(step)
	}
	allFiles(b.Site, func(id, file string) {
		if strings.HasSuffix(file, ".qcow2") {
			return
		}
		m, err := repo.Point(b.Name, id)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(b.path(id, file))
		if err != nil {
			t.Fatal(err)
		}
		for at := first; at < len(whole); at += step {
			whole[at] ^= 0x20
			if err := os.WriteFile(b.path(id, file), whole, 0o600); err != nil {
				t.Fatal(err)
			}
			n.flips.Add(1)
			if !noticed(t, repo, m, file) {
				t.Errorf("byte %d of %s/%s flipped: not noticed", at, id, file)
			}
			whole[at] ^= 0x20
		}
		if err := os.WriteFile(b.path(id, file), whole, 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

func noticed(t *testing.T, repo *repository.Repository, m manifest.Manifest, file string) bool {
	t.Helper()
	if file == manifest.FileName {
		_, err := repo.Point(m.Domain, m.ID)
		var damaged *damage.Error
		return errors.As(err, &damaged)
	}
	var damage []damage.Place
	var err error
	if target, isList := strings.CutSuffix(file, ".hashes"); isList {
		damage, err = diskimage.Check(context.Background(), repo.Link(m, testsite.DiskOf(t, m, target)), hashlist.CheckOptions{})
	} else {
		damage, err = pointfile.Check(context.Background(), repo.PointDir(m.Domain, m.ID), m, file, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(damage) == 1 && damage[0].File == filepath.Join(m.Domain, m.ID, file)
}
