package restore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

const cluster = 64 << 10

// chainOf makes a repository with a chain of n points of one disk of size bytes:
// each has changed the clusters that changed names, other ones than those before.
// It returns what the disk held at the last of them.
func chainOf(t testing.TB, n int, size int64, changed func(link int) []int64) (*repository.Repository, []byte) {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	var content []byte
	if size < 1<<30 {
		content = make([]byte, size)
	}
	for link := range n {
		var offsets []int64
		var data []byte
		for _, at := range changed(link) {
			p := bytes.Repeat([]byte{byte(link), byte(link >> 8), byte(at >> 16), 'x'}, cluster/4)
			offsets, data = append(offsets, at), append(data, p...)
			if content != nil {
				copy(content[at:], p)
			}
		}
		addPoint(t, lock, link, size, offsets, data)
	}
	return repo, content
}

// addPoint seals point number link+1 of a chain, with further files.
func addPoint(t testing.TB, lock *repository.Lock, link int, size int64, offsets []int64, data []byte, extras ...manifest.Extra) {
	t.Helper()
	addPointFrom(t, lock, manifest.SourceOptions{}, link, size, offsets, data, extras...)
}

// addPointFrom is addPoint for a source with options.
func addPointFrom(t testing.TB, lock *repository.Lock, source manifest.SourceOptions, link int, size int64, offsets []int64, data []byte, extras ...manifest.Extra) {
	t.Helper()
	id := func(link int) string { return "check" + itoa(link+1) }
	m := testManifest(id(link))
	disk := manifest.Disk{Target: "vda", Kind: manifest.KindFull, VirtualSize: size, DataBytes: int64(len(data)), SourceOptions: source}
	o := qcow2.Options{VirtualSize: size}
	if link > 0 {
		m.Kind, m.Parent, disk.Kind = manifest.KindInc, id(link-1), manifest.KindInc
		disk.Parent = manifest.ParentPath(m.Parent, "vda.qcow2")
		o.BackingFile, o.BackingFormat = disk.Parent, "qcow2"
	}
	p, err := lock.Begin(m.ID, "0123456789abcdef")
	must(t, err)
	must(t, p.WriteFile(manifest.DomainXML, []byte("<domain/>")))
	m.Extras = extras
	for _, e := range extras {
		must(t, p.WriteFile(e.File, []byte(e.File)))
	}
	im, err := p.CreateImage("vda", directio.Auto)
	must(t, err)
	w, err := qcow2.NewWriter(im, o)
	must(t, err)
	buf := directio.Buffer(len(data))
	copy(buf, data)
	for len(offsets) > 0 {
		k := min(16, len(offsets))
		must(t, w.Write(offsets[:k], buf[:k*cluster]))
		offsets, buf = offsets[k:], buf[k*cluster:]
	}
	_, err = w.Finish(im.Sync)
	must(t, err)
	_, _, err = im.Finish()
	must(t, err)
	m.Disks = []manifest.Disk{disk}
	must(t, p.Seal(m))
}

// misread makes reads of files whose path ends in name wrong: times times where
// the byte at offset of the file is read.
func misread(t *testing.T, name string, at int64, times int64) {
	t.Helper()
	var left atomic.Int64
	left.Store(times)
	spoil := func(path string, offset int64, p []byte) {
		if i := at - offset; strings.HasSuffix(path, name) && i >= 0 && i < int64(len(p)) && left.Add(-1) >= 0 {
			p[i] ^= 0x10
		}
	}
	directio.OnRead.Store(&spoil)
	t.Cleanup(func() { directio.OnRead.Store(nil) })
}

// restored restores the newest point to raw, and tells whether it is what the
// disk held, by cmp.
func restored(t *testing.T, repo *repository.Repository, content []byte) (Result, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	result, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir, Format: Raw})
	if err != nil {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("a failed restore leaves %v", left)
		}
		return result, err
	}
	want := filepath.Join(t.TempDir(), "want")
	must(t, os.WriteFile(want, content, 0o600))
	if out, err := exec.Command("cmp", want, result.Disks[0].Image).CombinedOutput(); err != nil {
		t.Errorf("the restored disk is not what it was: %s", out)
	}
	return result, nil
}

// What is read wrong once is read again: the restore is right, and says so. What
// is read wrong twice is damage, and nothing is restored.
func TestMisreads(t *testing.T) {
	const size = 64 << 20
	all := func(link int) (offsets []int64) {
		for at := int64(link) * cluster; at < size; at += 7 * cluster {
			offsets = append(offsets, at)
		}
		return offsets
	}
	repo, content := chainOf(t, 3, size, all)
	links, err := repo.Links("vm1", "check3", "vda")
	must(t, err)
	places := placesOf(t, links[1].Path)
	for name, at := range places {
		t.Run(name+" once", func(t *testing.T) {
			misread(t, "check2/vda.qcow2", at, 1)
			result, err := restored(t, repo, content)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(result.Warnings, "\n")
			for _, word := range []string{"vm1/check2/vda.qcow2", "disk vda", "at offset " + itoa(int(at&^(cluster-1)))} {
				if !strings.Contains(text, word) {
					t.Errorf("the warnings %q do not have %q", text, word)
				}
			}
		})
		t.Run(name+" always", func(t *testing.T) {
			misread(t, "check2/vda.qcow2", at, 1<<40)
			_, err := restored(t, repo, content)
			var damaged *damage.Error
			if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "check2") {
				t.Errorf("got %v, want damage in check2", err)
			}
		})
	}
}

// placesOf finds a byte of each kind in an image.
func placesOf(t *testing.T, path string) map[string]int64 {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	must(t, err)
	l1, l2 := make([]byte, 8), make([]byte, 8)
	_, err = f.ReadAt(l1, h.L1Offset)
	must(t, err)
	table := offsetOf(l1)
	for i := int64(0); ; i++ { // the first cluster with data
		_, err = f.ReadAt(l2, table+8*i)
		must(t, err)
		if offsetOf(l2) != 0 {
			return map[string]int64{"header": 25, "L1 table": h.L1Offset + 6, "L2 table": table + 8*i + 5, "data": offsetOf(l2) + 12345}
		}
	}
}

// A range that was proven, and is read again after others, is proven again.
func TestMisreadAfterEviction(t *testing.T) {
	const size = 256 << 20
	var order []int64
	for k := range int64(16) {
		for at := k * cluster; at < size; at += 16 * cluster {
			order = append(order, at)
		}
	}
	repo, content := chainOf(t, 1, size, func(int) []int64 { return order })
	var mu sync.Mutex
	seen := map[int64]int{}
	spoil := func(path string, offset int64, p []byte) {
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasSuffix(path, ".qcow2") {
			return
		}
		for at := offset &^ (cluster - 1); at < offset+int64(len(p)); at += cluster {
			if seen[at]++; seen[at] == 2 && at >= offset && at > 1<<20 { // right at first, then wrong
				p[at-offset] ^= 4
			}
		}
	}
	directio.OnRead.Store(&spoil)
	defer directio.OnRead.Store(nil)
	if _, err := restored(t, repo, content); err != nil {
		t.Error(err)
	}
}

// What of a hash list is read wrong once is told, as what of an image is.
func TestMisreadHashList(t *testing.T) {
	const size = 192 << 20
	repo, content := chainOf(t, 1, size, func(int) (all []int64) {
		for at := int64(0); at < size; at += cluster {
			all = append(all, at)
		}
		return all
	})
	links, err := repo.Links("vm1", "check1", "vda")
	must(t, err)
	info, err := os.Stat(filepath.Join(filepath.Dir(links[0].Path), "vda.hashes"))
	must(t, err)
	for name, at := range map[string]int64{"tree": info.Size() - 40, "second piece": 65<<10 + 7, "first piece": 100} {
		t.Run(name, func(t *testing.T) {
			misread(t, "vda.hashes", at, 1)
			result, err := restored(t, repo, content)
			if err != nil || !strings.Contains(strings.Join(result.Warnings, "\n"), "vda.hashes (disk vda): ") {
				t.Errorf("got %q, %v", result.Warnings, err)
			}
		})
	}
}

// A damaged hash list is harmless, also where there is no directory for temporary files.
func TestDamagedListWithoutTemporaryDirectory(t *testing.T) {
	repo, content := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0, cluster} })
	links, err := repo.Links("vm1", "check1", "vda")
	must(t, err)
	path := filepath.Join(filepath.Dir(links[0].Path), "vda.hashes")
	list, err := os.ReadFile(path)
	must(t, err)
	list[40] ^= 1
	must(t, os.WriteFile(path, list, 0o600))
	dir := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(dir, "none"))
	result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: filepath.Join(dir, "out"), Format: Raw})
	must(t, err)
	if got, err := os.ReadFile(result.Disks[0].Image); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the restored disk is not what it was: %v", err)
	}
	if !strings.Contains(strings.Join(result.Warnings, "\n"), "vda.hashes (disk vda): is damaged") {
		t.Errorf("warnings %q", result.Warnings)
	}
}
