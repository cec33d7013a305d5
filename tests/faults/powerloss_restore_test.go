package faults

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A power cut after a restore has ended loses nothing of it: not the images, not the domain's
// XML, and not the directories that it has made. Each fsync is needed for that. At any
// earlier power cut an image that has its final name is whole.
func TestPowerLossAfterARestore(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	s := testsite.New(t, testdomain.NewWithExtras(t, testdomain.Disk{Target: "vda", Size: 4 << 20}, testdomain.Disk{Target: "vdb", Size: 1<<20 + 512}))
	s.IO("vda", "write -P 0x41 1M 200k")
	s.IO("vdb", "write -P 0x42 0 300k")
	s.BackUp(0, "full")
	for _, format := range []string{"qcow2", "raw"} {
		root := filepath.Join(s.Dir, "root-"+format)
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		_, events := straced(s, root, nil, "restore", s.Name, "--to", filepath.Join(root, "new", "vm"), "--format", format)
		r := &recording{events: events, whole: load(t, root).cut(nothing{})}
		r.wantNamedWhole(t, root, "."+format, rand.New(rand.NewPCG(seed, 1)))
		// lost replays the restore in an empty directory.
		lost := func(without leftOut) (image, error) {
			d := &stable{t, root, newDir()}
			d.replay(r.events, without, func() {})
			left := d.cut(nothing{})
			for path, data := range r.whole {
				if now, ok := left[path]; !ok || !bytes.Equal(now, data) {
					return left, fmt.Errorf("%s is lost", path)
				}
			}
			return left, nil
		}
		left, err := lost(nil)
		if err != nil {
			t.Errorf("%s: %v", format, err)
		}
		after := testdomain.TempDir(t)
		left.save(t, after)
		for _, d := range s.Points[0].Disks {
			testdomain.Tool(t, "qemu-img", "compare", "-f", format, "-F", "raw", filepath.Join(after, "new", "vm", d.Target+"."+format), s.Points[0].Truth[d.Target])
		}
		synced := r.synced()
		for _, path := range synced {
			if _, err := lost(ofPath(path)); err == nil {
				t.Errorf("%s: nothing is lost without the fsync of %s: it is not needed, or this test does not see it", format, path)
			}
		}
		if want := 9; len(synced) != want { // two images, three extras, the XML, and three directories: root, new, vm
			t.Errorf("%s: %d things are synced, want %d: %v", format, len(synced), want, synced)
		}
	}
}

// wantNamedWhole checks that after a power cut at any instant a file with a final name, which
// ends so, is whole.
func (r *recording) wantNamedWhole(t *testing.T, root, suffix string, rng *rand.Rand) {
	t.Helper()
	d := &stable{t, root, newDir()}
	d.replay(r.events, nil, func() {
		for _, keep := range remaining(rng) {
			for path, data := range d.cut(keep) {
				if strings.HasSuffix(path, suffix) && !bytes.Equal(data, r.whole[path]) {
					t.Fatalf("%s is torn after a power cut in mid-run", path)
				}
			}
		}
	})
}

// A power cut after a restore in place has ended does not bring its mark back: the guest has been
// started meanwhile, and the next restore would take its disks for a mixture, of which it keeps
// nothing.
func TestPowerLossAfterARestoreInPlace(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	s.MayWarn = true
	s.IO("vda", "write -P 0x41 1M 200k")
	s.BackUp(0, "full")
	s.IO("vda", "write -P 0x42 2M 200k")
	s.Destroy()
	d := load(t, s.Repo)
	_, events := straced(s, s.Repo, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	marked := false
	d.replay(events, nil, func() {
		for path := range d.cut(nothing{}) {
			marked = marked || strings.Contains(path, ".mark-in-place")
		}
	})
	if !marked {
		t.Error("the mark is not durable while the disks are half restored, or this test does not see it")
	}
	for path := range d.cut(nothing{}) {
		if strings.Contains(path, ".mark-") && !strings.Contains(path, "put-back") {
			t.Errorf("%s is back", path)
		}
	}
}
