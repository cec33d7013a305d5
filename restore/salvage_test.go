package restore

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// flip changes a byte of a file, in the middle or where at says.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	data[at] ^= 0x40
	must(t, os.WriteFile(path, data, 0o600))
}

// Whatever is damaged in whichever point of a chain: a salvage restores what is right, fills the
// rest with zeros and says where; without it nothing is restored, unless the damage is harmless.
func TestSalvage(t *testing.T) {
	const size, links = 8<<20 + 512, 3
	changed := func(link int) []int64 {
		// The first cluster has one version, the second two, the third three.
		all := []int64{2 * cluster, int64(10+link) * cluster, size / cluster * cluster}
		if link < 2 {
			all = append(all, cluster)
		}
		if link == 0 {
			all = append(all, 0, 20*cluster, 21*cluster, 22*cluster)
		}
		return all
	}
	type kind struct {
		spoil func(t *testing.T, dir string, places map[string]int64)
		most  [links]int64 // clusters that are lost at most, with damage in each point; -1: nothing is damaged
	}
	image, hashes := "vda.qcow2", "vda.hashes"
	kinds := map[string]kind{
		// The header of the base hides what only the base has.
		"header": {func(t *testing.T, dir string, places map[string]int64) {
			flip(t, filepath.Join(dir, image), places["header"])
		}, [3]int64{125, 127, 129}},
		"L1 table": {func(t *testing.T, dir string, places map[string]int64) {
			flip(t, filepath.Join(dir, image), places["L1 table"])
		}, [3]int64{125, 127, 129}},
		"L2 table": {func(t *testing.T, dir string, places map[string]int64) {
			flip(t, filepath.Join(dir, image), places["L2 table"])
		}, [3]int64{125, 127, 129}},
		"data": {func(t *testing.T, dir string, places map[string]int64) {
			flip(t, filepath.Join(dir, image), places["data"])
		}, [3]int64{1, 1, 1}},
		"image": {func(t *testing.T, dir string, _ map[string]int64) { must(t, os.Remove(filepath.Join(dir, image))) }, [3]int64{125, 127, 129}},
		"end": {func(t *testing.T, dir string, _ map[string]int64) {
			must(t, os.Truncate(filepath.Join(dir, image), 3*cluster))
		}, [3]int64{125, 127, 129}},
		"list":    {func(t *testing.T, dir string, _ map[string]int64) { flip(t, filepath.Join(dir, hashes), 70) }, [3]int64{-1, -1, -1}},
		"no list": {func(t *testing.T, dir string, _ map[string]int64) { must(t, os.Remove(filepath.Join(dir, hashes))) }, [3]int64{-1, -1, -1}},
		"both": {func(t *testing.T, dir string, p map[string]int64) {
			flip(t, filepath.Join(dir, image), p["data"])
			flip(t, filepath.Join(dir, hashes), 70)
		}, [3]int64{125, 127, 129}},
		"manifest": {func(t *testing.T, dir string, _ map[string]int64) {
			flip(t, filepath.Join(dir, manifest.FileName), 100)
		}, [3]int64{125, 127, 0}},
		"no point": {func(t *testing.T, dir string, _ map[string]int64) { must(t, os.RemoveAll(dir)) }, [3]int64{125, 127, 0}},
		"other file": {func(t *testing.T, dir string, _ map[string]int64) {
			must(t, os.Rename(filepath.Join(dir, "domain.xml"), filepath.Join(dir, image)))
		}, [3]int64{125, 127, 129}},
	}
	for name, kind := range kinds {
		for link, most := range kind.most {
			if link == links-1 && most == 0 {
				continue // the point itself cannot be found
			}
			t.Run(name+" of check"+itoa(link+1), func(t *testing.T) {
				repo, content := chainOf(t, links, size, changed)
				dir := repo.PointDir("vm1", "check"+itoa(link+1))
				kind.spoil(t, dir, placesOf(t, filepath.Join(dir, image)))
				r := Request{Domain: "vm1", At: "check3", Disks: []string{"vda"}, Dir: filepath.Join(t.TempDir(), "without"), Format: Raw}
				if _, err := Run(t.Context(), repo, r); fail.Is(err, fail.Damaged) == (most < 0) {
					t.Errorf("without --salvage: got %v", err)
				}
				wantSalvaged(t, repo, r, content, most)
			})
		}
	}
}

// wantSalvaged restores to qcow2 and to standard output, and compares both with the truth
// without what is said to be lost: not more than so many clusters.
func wantSalvaged(t *testing.T, repo *repository.Repository, r Request, content []byte, most int64) {
	t.Helper()
	r.Salvage, r.Format, r.Dir = true, QCOW2, filepath.Join(t.TempDir(), "out")
	result, err := Run(t.Context(), repo, r)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(content)
	sum := int64(0)
	for _, l := range result.Lost {
		if l.Disk != "vda" || len(bytes.Trim(want[l.Offset:l.Offset+l.Length], "\x00")) == 0 && l.Length < 64<<10 {
			t.Errorf("lost: %+v", l)
		}
		clear(want[l.Offset : l.Offset+l.Length])
		sum += l.Length
	}
	if (sum > 0) != (most > 0) || sum > max(0, most)*cluster {
		t.Errorf("%d bytes are lost, in %+v, want at most %d clusters", sum, result.Lost, most)
	}
	if why := strings.Join(result.Warnings, "\n"); sum > 0 && !strings.Contains(why, "disk vda: what follows is lost") {
		t.Errorf("the warnings are %s", why)
	}
	wantSame(t, result.Disks[0].Image, QCOW2, fileOf(t, want))
	var stdout bytes.Buffer
	r.Output, r.Stdout, r.Format, r.Dir = ToStdout, &stdout, "", ""
	streamed, err := Output(t.Context(), repo, r)
	if err != nil || !bytes.Equal(stdout.Bytes(), want) || len(streamed.Lost) != len(result.Lost) {
		t.Errorf("to standard output: %v, lost %v, want %v", err, streamed.Lost, result.Lost)
	}
}

// A salvage of a sound point is a restore.
func TestSalvageOfASoundPoint(t *testing.T) {
	repo, content := oddDisk(t)
	wantSalvaged(t, repo, Request{Domain: "vm1", Disks: []string{"vda"}}, content, -1)
}
