package faults

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/zstd"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// unhosted is a domain that libvirt does not know, and its repository. Its disks are bytes in
// memory, so that points take milliseconds, and disks change in ways that libvirt has no
// command for. Only the methods of Site that ask no libvirt may be called.
type unhosted struct {
	*testsite.Site
	*rand.Rand
	disks map[string][]byte            // content now, by target
	shown map[string]map[string][]byte // content of points, by id and target
	// sources are the options of the images that disks are copied from, by target.
	sources map[string]manifest.SourceOptions
}

const (
	domainOfNoHost = "vm1"
	uuidOfNoHost   = "7b3f0c7e-6a1d-4f0e-9a53-2d8c1e5b7a90"
	clusterBytes   = 64 << 10
)

// newUnhosted makes a repository in dir, on whatever file system that is.
func newUnhosted(t *testing.T, dir string, seed uint64) *unhosted {
	t.Helper()
	u := &unhosted{
		Site: (&testsite.Site{Domain: &testdomain.Domain{Name: domainOfNoHost, UUID: uuidOfNoHost, Dir: dir}, T: t}).At(dir),
		Rand: newRand(seed), disks: map[string][]byte{}, shown: map[string]map[string][]byte{},
	}
	if _, err := repository.Create(u.Repo); err != nil {
		t.Fatal(err)
	}
	return u
}

// resize adds a disk, or gives it another length: what is added is zeros.
func (u *unhosted) resize(target string, size int) {
	data := u.disks[target]
	u.disks[target] = append(data[:min(size, len(data)):min(size, len(data))], make([]byte, max(0, size-len(data)))...)
}

// change writes to each disk: data, zeros over a whole cluster, and the last bytes. Text
// repeats, so that zstd packs it; noise does not.
func (u *unhosted) change() {
	for _, target := range u.targets() {
		data := u.disks[target]
		for range 3 {
			at := u.IntN(len(data))
			fill(data[at:min(len(data), at+1+u.IntN(3*clusterBytes))], u.Rand)
		}
		from := u.IntN(len(data)) / clusterBytes * clusterBytes
		clear(data[from:min(len(data), from+clusterBytes)])
		fill(data[len(data)-512:], u.Rand)
	}
}

func fill(p []byte, r *rand.Rand) {
	word := fmt.Appendf(nil, "%x ", r.Uint64())
	noise := r.IntN(3) == 0
	for i := range p {
		p[i] = word[i%len(word)]
		if noise {
			p[i] = byte(r.Uint32())
		}
	}
}

func (u *unhosted) targets() (targets []string) {
	for target := range u.disks {
		targets = append(targets, target)
	}
	slices.Sort(targets)
	return targets
}

// made says how a point is made.
type made struct {
	id, parent string
	kind       manifest.Kind
	zstd       bool
	full       []string // targets that are copied in full all the same
}

// point makes a point of what the disks hold.
func (u *unhosted) point(how made) {
	u.T.Helper()
	m, err := u.seal(how)
	if err != nil {
		u.T.Fatal(err)
	}
	truth := map[string]string{}
	u.shown[how.id] = map[string][]byte{}
	for target, data := range u.disks {
		truth[target] = filepath.Join(u.Dir, fmt.Sprintf("truth-%s-%s", how.id, target))
		u.shown[how.id][target] = bytes.Clone(data)
		if err := os.WriteFile(truth[target], data, 0o600); err != nil {
			u.T.Fatal(err)
		}
	}
	u.Points = append(u.Points, testsite.Point{Manifest: m, Truth: truth})
}

func (u *unhosted) seal(how made) (m manifest.Manifest, err error) {
	repo, err := repository.Open(u.Repo)
	if err != nil {
		return m, err
	}
	lock, err := repo.Lock(u.Name)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	identity := manifest.NewIdentity()
	if _, err := lock.Issue(instants.Instant{Identity: identity, Point: how.id}); err != nil {
		return m, err
	}
	partial, err := lock.Begin(how.id, identity)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	m = manifest.Manifest{ID: how.id, Kind: how.kind, Parent: how.parent, Domain: u.Name, DomainUUID: u.UUID,
		Consistency: manifest.ConsistencyCrash, Time: time.Date(2026, 1, 1+len(u.Points), 2, 0, 0, 0, time.UTC)}
	m.Finished = m.Time.Add(time.Minute)
	for target := range u.shown[how.parent] {
		if u.disks[target] == nil {
			m.Gone = append(m.Gone, target)
		}
	}
	for _, target := range u.targets() {
		d, err := u.image(partial, how, target)
		if err != nil {
			return m, err
		}
		m.Disks = append(m.Disks, d)
	}
	if err := partial.WriteFile(manifest.DomainXML, fmt.Appendf(nil, "<domain type='qemu'><name>%s</name><uuid>%s</uuid></domain>", u.Name, u.UUID)); err != nil {
		return m, err
	}
	if err := partial.Seal(m); err != nil {
		return m, err
	}
	return repo.Point(u.Name, how.id)
}

// image writes the image of a disk: what differs from the parent, and a cluster here and there
// that does not.
func (u *unhosted) image(partial *repository.Partial, how made, target string) (d manifest.Disk, err error) {
	data, base := u.disks[target], u.shown[how.parent][target]
	d = manifest.Disk{Target: target, Kind: manifest.KindFull, VirtualSize: int64(len(data)), Source: "/none/" + target, SourceFormat: "qcow2", SourceOptions: u.sources[target]}
	options := qcow2.Options{VirtualSize: d.VirtualSize}
	if how.zstd {
		options.NewCompressor = func() qcow2.Compressor { return zstd.New(zstd.DefaultLevel) }
	}
	inc := base != nil && !slices.Contains(how.full, target)
	if inc {
		d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(how.parent, target+manifest.ImageSuffix)
		options.BackingFile, options.BackingFormat = d.Parent, "qcow2"
	}
	im, err := partial.CreateImage(target, directio.Auto)
	if err != nil {
		return d, err
	}
	w, err := qcow2.NewWriter(im, options)
	if err != nil {
		return d, err
	}
	buf := directio.Buffer(clusterBytes)
	for at := 0; at < len(data); at += clusterBytes {
		clear(buf)
		n := copy(buf, data[at:])
		if inc && bytes.Equal(buf[:n], below(base, at, n)) && u.IntN(20) > 0 {
			continue // clean
		}
		if len(bytes.Trim(buf, "\x00")) == 0 {
			err = w.Zero(int64(at), int64(n))
		} else {
			err = w.Write([]int64{int64(at)}, buf)
		}
		if err != nil {
			return d, err
		}
	}
	stats, err := w.Finish(im.Sync)
	if err != nil {
		return d, err
	}
	d.DataBytes, d.ZeroBytes = stats.DataBytes, stats.ZeroBytes
	_, _, err = im.Finish()
	return d, err
}

// below is what an image shows that is chained onto one of that content.
func below(base []byte, at, n int) []byte {
	p := make([]byte, n)
	if at < len(base) {
		copy(p, base[at:])
	}
	return p
}
