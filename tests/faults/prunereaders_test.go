package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// besidePrune are those who read points while nights go by.
type besidePrune struct {
	*pruned
	mu           sync.Mutex
	kept         []testsite.Point // by the last prune, oldest first
	over         bool
	read, missed int // runs of readers; those that found the point removed meanwhile
}

// Those who read points while others are merged read what the points show: qemu-img, which
// knows nothing of merges, and restore, verify and list, which never find damage, or a point
// missing that stays.
func TestReadersBesidePrune(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	nights := 6
	if testsite.AllFaults() {
		nights = 60
	}
	for _, system := range []string{"ext4", "xfs"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			b := &besidePrune{pruned: newPruned(t, system, seed, new(numbers))}
			b.kept = b.Points[len(b.Points)-keptNights:]
			var readers panics.Group
			readers.Go(func() error { return b.loop("qemu", b.convert) })
			readers.Go(func() error { return b.loop("virtbackup", b.restore, b.list, b.verify) })
			end := sync.OnceFunc(func() {
				b.mu.Lock()
				b.over = true
				b.mu.Unlock()
				if err := readers.Wait(); err != nil {
					t.Error(err)
				}
			})
			defer end()
			merged := 0
			for range nights {
				merged += b.night()
			}
			end()
			b.compare("in the end")
			t.Logf("%d nights with %d merges: %d reads, of %d the point was removed meanwhile", nights, merged, b.read, b.missed)
			if merged < nights/2 || b.read <= b.missed {
				t.Errorf("%d merges in %d nights, %d reads", merged, nights, b.read)
			}
		})
	}
}

// keptNights is how many points the policy keeps.
const keptNights = 3

// night makes a point and prunes. It returns the number of merges.
func (b *besidePrune) night() int {
	b.T.Helper()
	last := b.Points[len(b.Points)-1].ID
	b.next(fmt.Sprintf("check%d", manifest.NextNumber(last)), last, manifest.KindInc)
	kept := slices.Clone(b.Points[len(b.Points)-keptNights:])
	b.mu.Lock()
	b.kept = kept
	b.mu.Unlock()
	r := b.Program.Must(b.T, []int{0, 3}, "prune", b.Name, "--keep-last", fmt.Sprint(keptNights), "--compact", "--json")
	if r.Code == 3 && !strings.Contains(r.Stderr, "being read") {
		b.T.Errorf("prune: exit 3\n%s", r.Stderr)
	}
	var result struct{ Merged []any }
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		b.T.Fatalf("prune: %v\n%s", err, r.Stdout)
	}
	return len(result.Merged)
}

// loop lets readers read in turn until the nights are over.
func (b *besidePrune) loop(name string, reads ...func(dir string, p testsite.Point) error) error {
	dir := filepath.Join(b.Dir, "read-by-"+name)
	for n := 0; ; n++ {
		b.mu.Lock()
		over, p := b.over, b.kept[n%len(b.kept)]
		b.mu.Unlock()
		if over {
			return nil
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		err := reads[n%len(reads)](dir, p)
		gone := b.gone(p)
		b.mu.Lock()
		b.read++
		if err != nil && gone {
			b.missed++
			err = nil
		}
		b.mu.Unlock()
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return fmt.Errorf("%s beside prune, of %s: %w", name, p.ID, err)
		}
	}
}

// gone tells whether the policy has removed a point meanwhile.
func (b *besidePrune) gone(p testsite.Point) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(b.kept, func(k testsite.Point) bool { return k.ID == p.ID })
}

// convert lets qemu-img read the disks of a point. It opens a chain file by file, so it may
// miss a parent that is deleted in between; then it has to succeed the next time.
func (b *besidePrune) convert(dir string, p testsite.Point) (err error) {
	for range 3 {
		if err = b.convertOnce(dir, p); err == nil || !strings.Contains(err.Error(), "No such file") {
			return err
		}
	}
	return err
}

func (b *besidePrune) convertOnce(dir string, p testsite.Point) error {
	for _, d := range p.Disks {
		raw := filepath.Join(dir, d.Target)
		if err := testdomain.TryTool(b.T, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", b.Image(p.Manifest, d.Target), raw); err != nil {
			return err
		}
		if err := testdomain.TryTool(b.T, "cmp", raw, p.Truth[d.Target]); err != nil {
			return err
		}
	}
	return nil
}

func (b *besidePrune) restore(dir string, p testsite.Point) error {
	to := filepath.Join(dir, "restored")
	if r := b.Program.Run(b.T, "restore", b.Name+"@"+p.ID, "--quiet", "--to", to, "--format", "raw"); r.Code != 0 {
		if b.gone(p) && r.Code == 6 {
			return fs.ErrNotExist
		}
		b.T.Errorf("restore beside prune, of %s: exit %d\n%s", p.ID, r.Code, r.Stderr)
		return nil
	}
	for _, d := range p.Disks {
		if err := testdomain.TryTool(b.T, "cmp", filepath.Join(to, d.Target+".raw"), p.Truth[d.Target]); err != nil {
			b.T.Errorf("restore beside prune, of %s: %v", p.ID, err)
		}
	}
	return nil
}

func (b *besidePrune) list(_ string, p testsite.Point) error {
	r := b.Program.Run(b.T, "list", b.Name, "--json")
	var listed []manifest.Manifest
	if err := json.Unmarshal([]byte(r.Stdout), &listed); err != nil || r.Code != 0 {
		b.T.Errorf("list beside prune: exit %d, %v\n%s", r.Code, err, r.Stderr)
	}
	if !slices.ContainsFunc(listed, func(m manifest.Manifest) bool { return m.ID == p.ID }) {
		return fmt.Errorf("%s is not listed", p.ID)
	}
	return nil
}

func (b *besidePrune) verify(string, testsite.Point) error {
	if r := b.Program.Run(b.T, "verify", b.Name); r.Code != 0 {
		b.T.Errorf("verify beside prune: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	return nil
}
