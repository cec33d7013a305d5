package nights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

const cluster = 64 << 10

// guest is the domain, and what the test knows of its disks.
type guest struct {
	dir    string // of the domain
	truths string // directory of what the disks held
	period int    // counts the points and the attempts to make one
	disks  map[string]*guestDisk
	taken  int
}

// guestDisk knows in which period each cluster was written to last.
type guestDisk struct {
	written []int
	// peak is the largest size that it has had. A disk that has shrunk stays below: a bitmap
	// does not show that a disk has shrunk and grown again (docs/design.md), and this test is
	// not about that.
	peak int64
}

// truth is what a disk held at an instant.
type truth struct {
	file    string // raw, sparse
	size    int64
	written []int // by cluster: the period of the last write
}

// targets are those that the disks have.
var targets = []string{"vda", "vdb", "vdc"}

// Between them are the sizes of disks.
const (
	smallest = 4 << 20
	largest  = 24 << 20
)

// with calls do with the domain, which is saved.
func (g *guest) with(do func(*fakelibvirt.Domain) error) error {
	d, err := new(fakelibvirt.Host).Load("vm1", g.dir)
	if err != nil {
		return err
	}
	return errors.Join(do(d), d.Save(), d.Close())
}

// randomSize is a multiple of 512 bytes, mostly not one of a cluster.
func randomSize(r *rand.Rand, low, high int64) int64 {
	if r.IntN(3) == 0 {
		return (low + r.Int64N(high-low+1)) / cluster * cluster
	}
	return (low + r.Int64N(high-low+1)) / 512 * 512
}

// attach adds a disk, three fifths of it filled.
func (g *guest) attach(r *rand.Rand, d *fakelibvirt.Domain, target string, size int64) error {
	if err := d.Attach(target, size); err != nil {
		return err
	}
	g.disks[target] = &guestDisk{written: slices.Repeat([]int{g.period}, clusters(size)), peak: size}
	for at := int64(0); at < size; at += cluster {
		if r.IntN(5) < 3 {
			g.write(d, target, at, content(r, min(cluster, size-at)))
		}
	}
	return nil
}

func clusters(size int64) int { return int((size + cluster - 1) / cluster) }

// write is a write of the guest, unless it is frozen.
func (g *guest) write(d *fakelibvirt.Domain, target string, at int64, p []byte) {
	if !d.Write(target, at, p) {
		return
	}
	for c := at / cluster; c <= (at+int64(len(p))-1)/cluster; c++ {
		g.disks[target].written[c] = g.period
	}
}

// content is random, or compresses well.
func content(r *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	if r.IntN(3) == 0 {
		for i := range p {
			p[i] = byte(i >> 9)
		}
		p[0] = byte(r.IntN(256))
		return p
	}
	fill(r, p)
	return p
}

// fill fills p with what does not compress.
func fill(r *rand.Rand, p []byte) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], r.Uint64())
	_, _ = rand.NewChaCha8(seed).Read(p) // never fails
}

// day is what happens between two points: writes, and now and then a disk that comes, goes,
// or changes its size. It returns what a run should do with a disk that has lost its bitmaps.
func (g *guest) day(r *rand.Rand, d *fakelibvirt.Domain) (fallback string, err error) {
	for _, target := range d.Targets() {
		for range r.IntN(6) {
			g.touch(r, d, target, d.Size(target))
		}
	}
	if d.Job() { // of a killed run: libvirt refuses all of what follows
		return "", nil
	}
	all := d.Targets()
	target := all[r.IntN(len(all))]
	switch n := r.IntN(100); {
	case n < 8:
		return "", g.resize(r, d, target)
	case n < 11 && len(all) > 1:
		delete(g.disks, target)
		return "", d.Detach(target)
	case n < 16 && len(all) < len(targets):
		i := slices.IndexFunc(targets, func(target string) bool { return !slices.Contains(all, target) })
		return []string{"rescan", "full"}[r.IntN(2)], g.attach(r, d, targets[i], randomSize(r, smallest, largest/2))
	case n < 19:
		return []string{"rescan", "full"}[r.IntN(2)], d.DropBitmaps(target)
	}
	return "", nil
}

// touch writes data or zeros somewhere, half of the time into the first tenth.
func (g *guest) touch(r *rand.Rand, d *fakelibvirt.Domain, target string, size int64) {
	within := size
	if r.IntN(2) == 0 {
		within = size / 10
	}
	at := r.Int64N(within) / 512 * 512
	n := min(512+r.Int64N(4*cluster)/512*512, size-at)
	switch r.IntN(4) {
	case 0: // a discard
		at = at / cluster * cluster
		g.write(d, target, at, make([]byte, min(r.Int64N(16*cluster)/cluster*cluster+cluster, size-at)))
	case 1:
		g.write(d, target, at, make([]byte, n))
	default:
		g.write(d, target, at, content(r, n))
	}
}

func (g *guest) resize(r *rand.Rand, d *fakelibvirt.Domain, target string) error {
	old, disk := d.Size(target), g.disks[target]
	size := randomSize(r, smallest, largest)
	if old < disk.peak && size >= disk.peak {
		size = randomSize(r, smallest, disk.peak-512)
	}
	disk.peak = max(disk.peak, size)
	if err := d.Resize(target, size); err != nil {
		return err
	}
	disk.written = disk.written[:min(clusters(old), clusters(size))]
	disk.written[len(disk.written)-1] = g.period // where it was cut, or goes on
	for len(disk.written) < clusters(size) {
		disk.written = append(disk.written, g.period)
	}
	if size > old && r.IntN(2) == 0 {
		g.write(d, target, old, content(r, min(size-old, 3*cluster)))
	}
	return nil
}

var zeros = make([]byte, cluster)

func isZero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

// take keeps what the disks hold now, and begins the next period.
func (g *guest) take(d *fakelibvirt.Domain) (map[string]truth, error) {
	all := map[string]truth{}
	g.taken++
	for _, target := range d.Targets() {
		t := truth{file: filepath.Join(g.truths, fmt.Sprintf("%d-%s.raw", g.taken, target)),
			written: slices.Clone(g.disks[target].written), size: d.Size(target)}
		if err := writeSparse(t.file, d.Content(target)); err != nil {
			return nil, err
		}
		all[target] = t
	}
	g.period++
	return all, nil
}

func writeSparse(file string, data []byte) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	for at := 0; at < len(data); at += cluster {
		p := data[at:min(at+cluster, len(data))]
		if isZero(p) {
			continue
		}
		if _, err := f.WriteAt(p, int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// forget removes what is no longer needed.
func forget(all map[string]truth) error {
	var errs []error
	for _, t := range all {
		errs = append(errs, os.Remove(t.file))
	}
	return errors.Join(errs...)
}

// live is how many bytes of data a disk holds in clusters that were written to after a period;
// those of all periods with -1.
func (t truth) live(since int) (n int64, err error) {
	data, err := os.ReadFile(t.file)
	if err != nil {
		return 0, err
	}
	for c, period := range t.written {
		at := c * cluster
		if p := data[at:min(at+cluster, len(data))]; period > since && !isZero(p) {
			n += cluster
		}
	}
	return n, nil
}
