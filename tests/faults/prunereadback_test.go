package faults

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// What a merge wrote is read back before it takes the place of a point that was verified: what
// the disk has lost of it is damage, and nothing is exchanged.
func TestWhatAMergeWroteIsReadBack(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	for _, system := range []string{"tmpfs", "xfs"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			p := newPruned(t, system, seed, new(numbers))
			p.arrange(&pruneScenario{})
			p.Program.Must(t, []int{0}, "verify", p.Name)
			program := p.Program
			program.Binary = testdomain.FaultyBinary(t)
			program.Env = append(slices.Clone(program.Env), "VIRTBACKUP_FAULT=merge: sync point before:pause")
			running := program.Start(t, keepTwo...)
			testsite.AwaitStopped(t, running)
			built, err := filepath.Glob(filepath.Join(p.Repo, p.Name, ".partial-merge-*"))
			if err != nil || len(built) != 1 {
				t.Fatalf("%q are being built: %v", built, err)
			}
			id := strings.TrimPrefix(filepath.Base(built[0]), ".partial-merge-")
			old := p.manifest(id)
			images, _ := filepath.Glob(filepath.Join(built[0], "*.qcow2"))
			for _, image := range images {
				flipDataClusters(t, image)
			}
			running.Signal(syscall.SIGCONT)
			r := running.Wait()
			if r.Code != 5 || !strings.Contains(r.Stderr, "read back what was written") {
				t.Errorf("exit %d, want 5\n%s", r.Code, r.Stderr)
			}
			if p.manifest(id) != old {
				t.Errorf("%s was exchanged", id)
			}
			p.compare("after a merge that was lost")
			p.Program.Must(t, []int{0}, keepTwo...)
			p.compare("after the next prune")
		})
	}
}

func (p *pruned) manifest(id string) string {
	p.T.Helper()
	content, err := os.ReadFile(filepath.Join(p.Repo, p.Name, id, manifest.FileName))
	if err != nil {
		p.T.Fatal(err)
	}
	return string(content)
}

// flipDataClusters flips a bit of each data cluster of an image. Those that a clone shares with
// others stay as they are there.
func flipDataClusters(t *testing.T, image string) {
	t.Helper()
	var extents []struct {
		Length, Depth int64
		Offset        *int64
	}
	if err := json.Unmarshal([]byte(testdomain.Tool(t, "qemu-img", "map", "-U", "--output=json", image)), &extents); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flipped := 0
	for _, e := range extents {
		if e.Depth != 0 || e.Offset == nil {
			continue
		}
		for at := *e.Offset; at < *e.Offset+e.Length; at += 64 << 10 {
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, at); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 1
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
			flipped++
		}
	}
	t.Logf("%s: %d clusters", image, flipped)
}
