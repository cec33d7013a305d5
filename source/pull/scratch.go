package pull

import (
	"fmt"
	"math"
	"time"

	"github.com/virtbackup/virtbackup/internal/bytesize"
)

// While a job runs, QEMU copies each block that the guest overwrites into the
// scratch file before it performs the write. If that file cannot grow, the
// *guest's* write fails with ENOSPC and libvirt pauses the domain; a reader of the
// exports does not notice. So a job has to end before that.

const (
	// scratchFloor is always left free, for what a guest writes between two samples
	// before its speed is known. On a small file system it is an eighth.
	scratchFloor = 256 << 20
	// scratchAhead is how many seconds of the growth seen so far must fit: a sample
	// is taken each second, copies return within 0.2 s, a job ends in 25 ms; the
	// rest is for busy hosts.
	scratchAhead = 5 * time.Second
	// fallAhead is the same for what is not written by the guest: our own images if
	// they are on the same file system, and other programs.
	fallAhead = 2 * time.Second
	// limitAhead is the margin below the limit, as time at the guest's speed: the
	// limit is a budget, and exceeding it by a little does no harm.
	limitAhead = 2 * time.Second
	// memory is the half-life of a measured speed: guests write in bursts.
	memory = 5 * time.Second

	lookOften  = 200 * time.Millisecond
	lookSeldom = time.Second
)

// scratchSample is the state of scratch space at one moment, in bytes.
type scratchSample struct {
	at   time.Time
	used int64 // by the scratch files of the job
	free int64 // on the file system that they are on
	size int64 // of that file system
	take int64 // maximum of the whole point, on whichever file system it is
	has  int64 // maximum of the point so far; with what is allocated ahead it may exceed take
}

// scratchWatch decides when scratch space gets short. Call note with each sample.
//
// libvirt reports what the guest takes on the file system. Other use may be by the point, if
// the repository shares that space. Device numbers do not show whether it does (subvolumes
// of btrfs, datasets of ZFS and overlays have their own). So other use counts as the point's
// up to what the point has taken so far, and only the rest as taken by others. (A file system
// may show late what it has allocated.) If the point is elsewhere, the use of a third program
// counts as the point's for that many bytes, which matters only when the point needs nothing
// more: then the job is about to end.
type scratchWatch struct {
	limit int64 // bytes that the scratch files may take; 0: no limit
	max   int64 // bytes that they can take: the size of all disks

	first, now scratchSample
	took       int64   // by the point, bytes
	growth     float64 // of the scratch files, bytes a second
	ours       float64 // of the point, bytes a second
	others     float64 // of everything else, bytes a second
	looks      int
}

// note adds a sample. Samples must be in order of time.
func (w *scratchWatch) note(s scratchSample) {
	if w.looks == 0 {
		w.first = s
	} else if seconds := s.at.Sub(w.now.at).Seconds(); seconds > 0 {
		keep := math.Exp2(-seconds / memory.Seconds())
		speed := func(old float64, bytes int64) float64 { return max(old*keep, float64(bytes)/seconds) }
		fell := s.fallSince(w.now)
		took := min(s.has, max(0, w.took+fell))
		w.growth = speed(w.growth, s.used-w.now.used)
		w.ours = speed(w.ours, took-w.took)
		w.others = speed(w.others, fell-(took-w.took))
		w.took = took
	}
	w.now = s
	w.looks++
}

// fallSince is how many bytes of the free space have been taken since an earlier sample, but
// not by the guest; negative if space was freed.
func (s scratchSample) fallSince(earlier scratchSample) int64 {
	return earlier.free - s.free - (s.used - earlier.used)
}

// reserve is how many bytes have to be free. With that much, the guest's writes find space
// for at least
//
//   - scratchAhead, at the guest's own speed
//   - fallAhead, at the guest's speed and that of everybody else
//
// as measured so far. It is limited in two ways: the guest needs no more than the scratch
// files can still grow, and the point no more than it has yet to write. So a backup that
// fits, together with the guest's share, continues however fast it writes.
func (w *scratchWatch) reserve() int64 {
	left := float64(w.max - w.now.used)
	if left <= 0 {
		return 0
	}
	alone := max(float64(scratchLeast(w.now.size)), w.growth*scratchAhead.Seconds())
	among := min(w.growth*fallAhead.Seconds(), left) + w.others*fallAhead.Seconds()
	point := min(w.ours*fallAhead.Seconds(), float64(max(0, w.now.take-w.took)))
	return int64(max(min(alone, left), among) + point)
}

// scratchLeast is what is always left free of a file system of that size.
func scratchLeast(size int64) int64 { return min(scratchFloor, size/8) }

// short says why the job has to end now, or "".
func (w *scratchWatch) short() string {
	s := w.now
	if margin := min(w.growth*limitAhead.Seconds(), float64(w.limit/4)); w.limit > 0 && float64(s.used)+margin >= float64(w.limit) {
		return fmt.Sprintf("the guest has overwritten %s while the job ran, which QEMU keeps in the scratch files, "+
			"and goes on at %s a second: that reaches the limit of %s", bytesize.Text(s.used), bytesize.Text(int64(w.growth)), bytesize.Text(w.limit))
	}
	if reserve := w.reserve(); s.free < reserve {
		return fmt.Sprintf("%s are free for the scratch files, less than the reserve of %s: %s, and the guest's writes would fail without space",
			bytesize.Text(s.free), bytesize.Text(reserve), w.taker())
	}
	return ""
}

// writeUnderWay is how many bytes a write of the guest can take before libvirt counts it.
const writeUnderWay = 4 << 20

// taker describes who has taken the space: the guest, unless others have taken more.
func (w *scratchWatch) taker() string {
	others := w.now.fallSince(w.first)
	switch {
	case w.now.used == 0 && others <= writeUnderWay:
		return "the guest overwrites what QEMU keeps there while the job runs, or something else fills that file system"
	case w.now.used > others && w.now.used > 0:
		return fmt.Sprintf("the guest has overwritten %s while the job ran and goes on at %s a second", bytesize.Text(w.now.used), bytesize.Text(int64(w.growth)))
	}
	return fmt.Sprintf("the guest has overwritten no more than %s while the job ran, something else fills that file system", bytesize.Text(w.now.used))
}

// pause is the time to the next sample: short if little space is left or if the guest's
// speed is not known yet.
func (w *scratchWatch) pause() time.Duration {
	near := w.now.free < 4*w.reserve()
	if w.limit > 0 {
		left := float64(w.limit - w.now.used)
		near = near || left < float64(w.limit/2) || left < w.growth*scratchAhead.Seconds()
	}
	if w.looks < 2 || near {
		return lookOften
	}
	return lookSeldom
}
