package prune

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/zstd"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/verify"
)

const (
	cluster    = 64 << 10
	domainUUID = "5d5a1f4e-3a3b-4a57-9d2e-6c0a6d1b2c33"
)

// world is a domain whose points were written from disks in memory, which are the truth.
type world struct {
	t     *testing.T
	repo  *repository.Repository
	disks map[string][]byte
	truth map[string]map[string][]byte // by point and disk
	now   time.Time
	// packed: images are compressed.
	packed bool
	// cloned: a merge was a clone.
	cloned bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir())
}

// onBoth runs a test on a file system whose files can share data, and on one whose files
// cannot.
func onBoth(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("rewrite", func(t *testing.T) { test(t, newWorld(t)) })
	t.Run("clone", func(t *testing.T) {
		w := newWorldIn(t, testfs.XFS(t, 0))
		test(t, w)
		if !w.cloned {
			t.Error("no merge was a clone")
		}
	})
}

func newWorldIn(t *testing.T, dir string) *world {
	t.Helper()
	repo, err := repository.Create(filepath.Join(dir, "repo"))
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, repo: repo, disks: map[string][]byte{"vda": make([]byte, 16*cluster)},
		truth: map[string]map[string][]byte{}, now: time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)}
}

// write fills clusters of a disk with a byte each; 0 are zeros.
func (w *world) write(disk string, value byte, clusters ...int) {
	for _, c := range clusters {
		copy(w.disks[disk][c*cluster:], bytes.Repeat([]byte{value}, cluster))
	}
}

// point seals a point of the disks as they are, a night after the one before, and returns
// its id. parent is "" for full and copy.
func (w *world) point(kind manifest.Kind, parent string) string {
	w.t.Helper()
	w.now = w.now.Add(24 * time.Hour)
	l := w.lock()
	defer l.Unlock()
	n, err := l.NextNumber()
	if err != nil {
		w.t.Fatal(err)
	}
	prefix := manifest.PrefixCheck
	if kind == manifest.KindDiff || kind == manifest.KindCopy {
		prefix = string(kind)
	}
	id, identity := fmt.Sprintf("%s%d", prefix, n), manifest.NewIdentity()
	if _, err := l.Issue(instants.Instant{Point: id, Identity: identity}); err != nil {
		w.t.Fatal(err)
	}
	p, err := l.Begin(id, identity)
	if err != nil {
		w.t.Fatal(err)
	}
	m := manifest.Manifest{ID: id, Kind: kind, Parent: parent, Domain: "vm1", DomainUUID: domainUUID, Time: w.now, Finished: w.now, Consistency: manifest.ConsistencyCrash}
	for _, target := range slices.Sorted(maps.Keys(w.disks)) {
		m.Disks = append(m.Disks, w.image(p, target, w.truth[parent][target], parent))
	}
	if err := errors.Join(p.WriteFile(manifest.DomainXML, []byte("<domain/>")), p.Seal(m)); err != nil {
		w.t.Fatal(err)
	}
	w.truth[id] = map[string][]byte{}
	for target, data := range w.disks {
		w.truth[id][target] = bytes.Clone(data)
	}
	return id
}

// image writes what of a disk differs from what it was.
func (w *world) image(p *repository.Partial, target string, before []byte, parent string) manifest.Disk {
	w.t.Helper()
	now := w.disks[target]
	d := manifest.Disk{Target: target, Kind: manifest.KindFull, VirtualSize: int64(len(now))}
	o := qcow2.Options{VirtualSize: d.VirtualSize}
	if before != nil {
		d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(parent, target+manifest.ImageSuffix)
		o.BackingFile, o.BackingFormat = d.Parent, "qcow2"
	}
	if w.packed {
		o.NewCompressor = func() qcow2.Compressor { return zstd.New(1) }
	}
	im, err := p.CreateImage(target, directio.Auto)
	if err != nil {
		w.t.Fatal(err)
	}
	writer, err := qcow2.NewWriter(im, o)
	if err != nil {
		w.t.Fatal(err)
	}
	old := make([]byte, len(now)) // behind its end a disk reads as zeros
	copy(old, before)
	for at := 0; at < len(now); at += cluster {
		c := make([]byte, cluster) // the last one may be cut
		was := bytes.Clone(c)
		copy(c, now[at:])
		copy(was, old[at:])
		switch {
		case bytes.Equal(c, was):
		case bytes.Equal(c, make([]byte, cluster)):
			err = errors.Join(err, writer.Zero(int64(at), cluster))
		default:
			err = errors.Join(err, writer.Write([]int64{int64(at)}, c))
			d.DataBytes += cluster
		}
	}
	_, finishErr := writer.Finish(im.Sync)
	_, _, closeErr := im.Finish()
	if err := errors.Join(err, finishErr, closeErr); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// nights makes a full of eight clusters and so many incs, each of which changes cluster 0.
func (w *world) nights(n int) (ids []string) {
	w.t.Helper()
	w.write("vda", 1, 0, 1, 2, 3, 4, 5, 6, 7)
	ids = append(ids, w.point(manifest.KindFull, ""))
	for i := 1; i < n; i++ {
		w.write("vda", byte(100+i), 0)
		ids = append(ids, w.point(manifest.KindInc, ids[i-1]))
	}
	return ids
}

func (w *world) lock() *repository.Lock {
	w.t.Helper()
	l, err := w.repo.Lock("vm1")
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// protect protects a point for ever.
func (w *world) protect(id, note string) {
	w.t.Helper()
	l := w.lock()
	defer l.Unlock()
	if _, err := l.Protect(id, time.Time{}, note); err != nil {
		w.t.Fatal(err)
	}
}

// prune runs a prune that must succeed.
func (w *world) prune(request Request) Result {
	w.t.Helper()
	result, err := w.try(request)
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}

func (w *world) try(request Request) (Result, error) {
	request.Domain = "vm1"
	if request.ReadersWait == 0 {
		request.ReadersWait = 50 * time.Millisecond
	}
	result, err := Run(context.Background(), w.repo, request)
	for _, m := range result.Merged {
		w.cloned = w.cloned || m.Cloned
	}
	return result, err
}

func last(n int) Request { return Request{Rules: retention.Rules{Last: n}} }

func compact(r Request) Request { r.Compact = true; return r }

// listed are the ids of the listed points.
func (w *world) listed() string {
	w.t.Helper()
	return strings.Join(w.lineage().IDs(), " ")
}

// hidden are the ids of the hidden ones.
func (w *world) hidden() string {
	w.t.Helper()
	var ids []string
	for _, m := range w.lineage().Hidden {
		ids = append(ids, m.ID)
	}
	return strings.Join(ids, " ")
}

func (w *world) lineage() *lineage.Lineage {
	w.t.Helper()
	l, err := w.repo.Lineage("vm1")
	if err == nil {
		err = l.Err()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// check compares every listed point with the truth, by qemu-img and by a restore, verifies
// all, and looks for what should not be there.
func (w *world) check() {
	w.t.Helper()
	for _, m := range w.lineage().Points {
		for _, d := range m.Disks {
			w.compare(filepath.Join(w.repo.PointDir("vm1", m.ID), d.Image), w.truth[m.ID][d.Target])
		}
		dir := filepath.Join(w.t.TempDir(), m.ID)
		if _, err := restore.Run(context.Background(), w.repo, restore.Request{Domain: "vm1", At: m.ID, Dir: dir, Format: restore.Raw}); err != nil {
			w.t.Fatal(err)
		}
		for target, truth := range w.truth[m.ID] {
			got, err := os.ReadFile(filepath.Join(dir, target+".raw"))
			if err != nil || !bytes.Equal(got, truth) {
				w.t.Errorf("restored %s of %s differs: %v", target, m.ID, err)
			}
		}
	}
	report, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"})
	if err != nil || report.Err() != nil {
		w.t.Errorf("verify: %v, %v: %+v", err, report.Err(), report.Damage)
	}
	entries, err := os.ReadDir(w.repo.DomainDir("vm1"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			w.t.Errorf("%s was left behind", e.Name())
		}
	}
}

func (w *world) compare(image string, truth []byte) {
	w.t.Helper()
	raw := filepath.Join(w.t.TempDir(), "truth")
	if err := os.WriteFile(raw, truth, 0o600); err != nil {
		w.t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "-f", "qcow2", image}, {"compare", "-f", "raw", "-F", "qcow2", raw, image}} {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			w.t.Errorf("qemu-img %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
}

// tree is what the files of the domain's points hold, to see that nothing has changed.
func (w *world) tree() string {
	w.t.Helper()
	var b strings.Builder
	dir := w.repo.DomainDir("vm1")
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "lock" || e.Name() == repository.ReadersName {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", strings.TrimPrefix(path, dir), sha256.Sum256(data))
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

// damage flips a bit of the image of vda.
func (w *world) damage(id string, offset int64) {
	w.t.Helper()
	f, err := os.OpenFile(filepath.Join(w.repo.PointDir("vm1", id), "vda.qcow2"), os.O_RDWR, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	_, err = f.ReadAt(b, offset)
	b[0] ^= 1
	_, writeErr := f.WriteAt(b, offset)
	if err := errors.Join(err, writeErr); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) verify() {
	w.t.Helper()
	if _, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"}); err != nil {
		w.t.Fatal(err)
	}
}

// note writes down what a verification has found of a point.
func (w *world) note(id string, sound bool) error {
	digest, err := w.repo.ManifestDigest("vm1", id)
	v := repository.Verification{Time: time.Now(), Manifest: digest, Sound: sound}
	if !sound {
		v.Lost = []string{"vda"}
	}
	return errors.Join(err, w.repo.SetVerified("vm1", map[string]repository.Verification{id: v}))
}
