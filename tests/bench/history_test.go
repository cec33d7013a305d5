package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

// pastDomain is the domain of a history.
const pastDomain = "vm1"

const cluster = 64 * kib

// history is the repository of a domain that never was: its only disk, vda, has changed
// between its points, which virtbackup's own writer has written as a backup would. A night
// lies between two points.
type history struct {
	t        *testing.T
	repo     *repository.Repository
	versions []uint32 // of each cluster of the disk; 0 are zeros
	changed  []int64  // clusters, since the last point
	now      time.Time
	ids      []string
	random   *rand.Rand
	pool     []byte // that contents come from

	// twins, if not 0, is after how many clusters the first version of the disk repeats
	// itself. Such clusters share their blocks, so that a large disk takes little space; the
	// file system is one that can do that.
	twins int64
}

// newHistory makes an empty disk of size bytes, and a repository in dir.
func newHistory(t *testing.T, dir string, size int64) *history {
	t.Helper()
	repo, err := repository.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{t: t, repo: repo, versions: make([]uint32, size/cluster), random: rand.New(rand.NewPCG(4, 4)),
		now: time.Date(2025, 1, 1, 1, 0, 0, 0, time.UTC), pool: make([]byte, 16*mib)}
	_, _ = io.ReadFull(random(), h.pool)
	return h
}

// write changes clusters of the disk.
func (h *history) write(clusters ...int64) {
	for _, c := range clusters {
		h.versions[c]++
	}
	h.changed = append(h.changed, clusters...)
}

// fill changes every step-th cluster.
func (h *history) fill(step int) {
	for c := 0; c < len(h.versions); c += step {
		h.write(int64(c))
	}
}

// scatter changes n clusters somewhere below the given one.
func (h *history) scatter(n int64, below int) {
	for _, c := range h.random.Perm(below)[:n] {
		h.write(int64(c))
	}
}

// point makes a point: a full, if it is the first, or an inc. It returns how many bytes of
// data that has.
func (h *history) point() int64 {
	h.t.Helper()
	h.now = h.now.Add(24 * time.Hour)
	lock, err := h.repo.Lock(pastDomain)
	if err != nil {
		h.t.Fatal(err)
	}
	m := manifest.Manifest{ID: fmt.Sprintf("check%d", len(h.ids)+1), Kind: manifest.KindFull, Domain: pastDomain,
		DomainUUID: "5d5a1f4e-3a3b-4a57-9d2e-6c0a6d1b2c33", Time: h.now, Finished: h.now, Consistency: manifest.ConsistencyCrash}
	if len(h.ids) > 0 {
		m.Kind, m.Parent = manifest.KindInc, h.newest()
	}
	err = h.seal(lock, &m)
	if err := errors.Join(err, lock.Unlock()); err != nil {
		h.t.Fatal(err)
	}
	h.ids, h.changed = append(h.ids, m.ID), nil
	return m.Disks[0].DataBytes
}

func (h *history) newest() string { return h.ids[len(h.ids)-1] }

// image is that of the disk in a point.
func (h *history) image(id string) string {
	return filepath.Join(h.repo.PointDir(pastDomain, id), "vda.qcow2")
}

func (h *history) seal(lock *repository.Lock, m *manifest.Manifest) error {
	identity := manifest.NewIdentity()
	if _, err := lock.Issue(instants.Instant{Point: m.ID, Identity: identity}); err != nil {
		return err
	}
	p, err := lock.Begin(m.ID, identity)
	if err != nil {
		return err
	}
	d, err := h.disk(p, m.Parent)
	if err != nil {
		return errors.Join(err, p.Discard())
	}
	m.Disks = []manifest.Disk{d}
	return errors.Join(p.WriteFile(manifest.DomainXML, []byte("<domain/>")), p.Seal(*m))
}

// disk writes the image of what has changed.
func (h *history) disk(p *repository.Partial, parent string) (manifest.Disk, error) {
	d := manifest.Disk{Target: "vda", Kind: manifest.KindFull, VirtualSize: int64(len(h.versions)) * cluster}
	o := qcow2.Options{VirtualSize: d.VirtualSize}
	if parent != "" {
		d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(parent, "vda.qcow2")
		o.BackingFile, o.BackingFormat = d.Parent, "qcow2"
	}
	im, err := p.CreateImage("vda", directio.Auto)
	if err != nil {
		return d, err
	}
	w, err := qcow2.NewWriter(im, o)
	if err != nil {
		return d, err
	}
	if err := h.copyChanged(w, filepath.Join(p.Dir(), "vda.qcow2")); err != nil {
		return d, err
	}
	stats, err := w.Finish(im.Sync)
	if err != nil {
		return d, err
	}
	d.DataBytes = stats.DataBytes
	_, _, err = im.Finish()
	return d, err
}

// copyChanged writes what has changed, 1 MiB at a time.
func (h *history) copyChanged(w *qcow2.Writer, path string) error {
	slices.Sort(h.changed)
	buffer := directio.Buffer(mib)
	shared := sharer{path: path, at: map[uint64]int64{}}
	for i, some := range slices.Collect(slices.Chunk(slices.Compact(h.changed), mib/cluster)) {
		offsets := make([]int64, len(some))
		for j, c := range some {
			offsets[j] = c * cluster
			h.content(buffer[j*cluster:][:cluster], c)
		}
		if err := w.Write(offsets, buffer[:len(some)*cluster]); err != nil {
			return err
		}
		if h.twins != 0 && len(h.ids) == 0 && int64(i+1)*mib/cluster%h.twins == 0 {
			if err := shared.share(); err != nil {
				return err
			}
		}
	}
	return nil
}

// content makes what a cluster holds now. It begins with a tag, the same for twins.
func (h *history) content(p []byte, c int64) {
	version := h.versions[c]
	if version == 0 {
		clear(p)
		return
	}
	if version == 1 && h.twins != 0 {
		c %= h.twins
	}
	tag := tagMark | uint64(version)<<32 | uint64(c)
	copy(p, h.pool[tag*4096%uint64(len(h.pool)-len(p)):][:len(p)])
	binary.BigEndian.PutUint64(p, tag)
}

// truth writes the disk as it is now to a raw file.
func (h *history) truth(file string) {
	h.t.Helper()
	f, err := os.Create(file)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	buffer := make([]byte, cluster)
	for c := range h.versions {
		h.content(buffer, int64(c))
		if _, err := f.Write(buffer); err != nil {
			h.t.Fatal(err)
		}
	}
}

// tagMark begins the tag of a cluster.
const tagMark = 0xb1 << 56

// sharer lets clusters of one content share their blocks while an image grows.
type sharer struct {
	path string
	end  int64            // of what was looked at
	at   map[uint64]int64 // where the first cluster with a tag lies

	from, to, length int64 // bytes at to that are those at from, to be shared
}

// share looks at what the file has got since the last call. What lies behind the last tag may
// be allocated only, and is looked at again.
func (s *sharer) share() error {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	}
	if err != nil {
		return err
	}
	tag := make([]byte, 8)
	for at := s.end; at+cluster <= info.Size(); at += cluster {
		if _, err := f.ReadAt(tag, at); err != nil {
			return err
		}
		if tag[0] != tagMark>>56 {
			continue
		}
		if err := s.found(f, binary.BigEndian.Uint64(tag), at); err != nil {
			return err
		}
		s.end = at + cluster
	}
	return s.clone(f)
}

// found enters a cluster, which shares blocks with the first one of its tag.
func (s *sharer) found(f *os.File, tag uint64, at int64) error {
	first, twin := s.at[tag]
	if !twin {
		s.at[tag] = at
		return nil
	}
	if s.length > 0 && first == s.from+s.length && at == s.to+s.length {
		s.length += cluster
		return nil
	}
	err := s.clone(f)
	s.from, s.to, s.length = first, at, cluster
	return err
}

func (s *sharer) clone(f *os.File) error {
	if s.length == 0 {
		return nil
	}
	err := localfile.CloneRange(f, s.from, s.length, f, s.to)
	s.length = 0
	return err
}
