package restore

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// fromSource makes a repository with a point of a disk whose source had options.
func fromSource(t *testing.T, source manifest.SourceOptions) (*repository.Repository, []byte) {
	t.Helper()
	const size = 8<<20 + 3*512
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	must(t, err)
	lock, err := repo.Lock("vm1")
	must(t, err)
	defer lock.Unlock()
	content := make([]byte, size)
	var offsets []int64
	var data []byte
	for _, at := range []int64{0, cluster, 17 * cluster, size / cluster * cluster} {
		p := bytes.Repeat([]byte{byte(at >> 16), 'y', 'z', 1}, cluster/4)
		n := copy(content[at:], p)
		clear(p[n:])
		offsets, data = append(offsets, at), append(data, p...)
	}
	addPointFrom(t, lock, source, 0, size, offsets, data)
	return repo, content
}

// infoOf is what qemu-img says of an image.
func infoOf(t *testing.T, path string) (info manifest.SourceOptions) {
	t.Helper()
	out, err := exec.Command("qemu-img", "info", "--output=json", path).Output()
	must(t, err)
	var said struct {
		Cluster int64 `json:"cluster-size"`
		Format  struct {
			Data struct {
				Compat      string
				Lazy        bool   `json:"lazy-refcounts"`
				Refcount    int    `json:"refcount-bits"`
				Compression string `json:"compression-type"`
				Extended    bool   `json:"extended-l2"`
				Corrupt     bool
			}
		} `json:"format-specific"`
	}
	must(t, json.Unmarshal(out, &said))
	d := said.Format.Data
	return manifest.SourceOptions{Compat: d.Compat, ClusterSize: said.Cluster, RefcountBits: d.Refcount, CompressionType: d.Compression,
		LazyRefcounts: d.Lazy, ExtendedL2: d.Extended}
}

// An image has the options of its source, whatever they were.
func TestOptionsOfTheSource(t *testing.T) {
	usual := manifest.SourceOptions{Compat: "1.1", ClusterSize: cluster, RefcountBits: 16, CompressionType: "zlib"}
	with := func(change func(o *manifest.SourceOptions)) manifest.SourceOptions {
		o := usual
		change(&o)
		return o
	}
	for name, o := range map[string]manifest.SourceOptions{
		"usual":    usual,
		"lazy":     with(func(o *manifest.SourceOptions) { o.LazyRefcounts = true }),
		"small":    with(func(o *manifest.SourceOptions) { o.ClusterSize = 4096 }),
		"large":    with(func(o *manifest.SourceOptions) { o.ClusterSize = 2 << 20 }),
		"refcount": with(func(o *manifest.SourceOptions) { o.RefcountBits = 1 }),
		"zstd":     with(func(o *manifest.SourceOptions) { o.CompressionType = "zstd" }),
		"extended": with(func(o *manifest.SourceOptions) { o.ClusterSize, o.ExtendedL2, o.LazyRefcounts = 32<<10, true, true }),
		"version2": {Compat: "0.10", ClusterSize: cluster, RefcountBits: 16},
	} {
		t.Run(name, func(t *testing.T) {
			repo, content := fromSource(t, o)
			for _, preallocation := range []Preallocation{PreallocateOff, PreallocateMetadata} {
				r := Request{Domain: "vm1", Dir: filepath.Join(t.TempDir(), "out"), Preallocation: preallocation}
				result, err := Run(t.Context(), repo, r)
				must(t, err)
				want := o
				if want.CompressionType == "" {
					want.CompressionType = "zlib"
				}
				if got := infoOf(t, result.Disks[0].Image); got != want {
					t.Errorf("%s: got %+v, want %+v", preallocation, got, want)
				}
				wantSame(t, result.Disks[0].Image, QCOW2, fileOf(t, content))
				if result.Disks[0].DataBytes == 0 || len(result.Warnings) > 0 {
					t.Errorf("%s: %+v", preallocation, result)
				}
				if info, err := os.Stat(result.Disks[0].Image); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v", preallocation, info.Mode(), err)
				}
			}
		})
	}
}

// Without QEMU's programs, and compressed, an image has the usual options; the first is a
// warning.
func TestOptionsOfTheSourceWithoutQEMU(t *testing.T) {
	repo, content := fromSource(t, manifest.SourceOptions{Compat: "1.1", ClusterSize: 4096, RefcountBits: 16, CompressionType: "zlib"})
	compressed, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: filepath.Join(t.TempDir(), "out"), Zstd: 1})
	must(t, err)
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: filepath.Join(t.TempDir(), "out")})
	must(t, err)
	if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "not those of its source") || len(compressed.Warnings) > 0 {
		t.Errorf("got %q and %q", result.Warnings, compressed.Warnings)
	}
	t.Setenv("PATH", path)
	for _, r := range []Result{compressed, result} {
		wantSame(t, r.Disks[0].Image, QCOW2, fileOf(t, content))
		if got := infoOf(t, r.Disks[0].Image); got.ClusterSize != cluster {
			t.Errorf("got %+v", got)
		}
	}
}

// Directories of sockets that a killed restore has left are removed, and no others.
func TestSocketDirs(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	used, removeUsed, err := socketDir()
	must(t, err)
	left := filepath.Join(os.TempDir(), socketDirs+"left")
	must(t, os.Mkdir(left, 0o700))
	must(t, os.WriteFile(filepath.Join(left, "nbd.sock"), nil, 0o600))
	theirs := filepath.Join(os.TempDir(), socketDirs+"theirs")
	must(t, os.Mkdir(theirs, 0o700))
	must(t, os.Chown(theirs, 65534, 65534))
	link := filepath.Join(os.TempDir(), socketDirs+"link")
	must(t, os.Symlink(t.TempDir(), link))
	own, removeOwn, err := socketDir()
	must(t, err)
	for path, wants := range map[string]bool{used: true, left: false, theirs: true, link: true, own: true} {
		if _, err := os.Lstat(path); (err == nil) != wants {
			t.Errorf("%s: %v", path, err)
		}
	}
	must(t, removeUsed())
	must(t, removeOwn())
	if dirs, _ := os.ReadDir(os.TempDir()); len(dirs) != 2 {
		t.Errorf("there are %v", dirs)
	}
}
