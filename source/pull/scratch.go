package pull

import (
	"fmt"
	"math"
	"time"

	"github.com/virtbackup/virtbackup/internal/bytesize"
)

// While a job runs, QEMU copies each block that the guest overwrites into the
// scratch file before it lets the write go on. Where that file cannot grow, the
// *guest's* write fails with ENOSPC and libvirt pauses the domain; who reads the
// exports notices nothing. So a job has to end before that.

const (
	// scratchFloor is always left free: what a guest writes between two looks,
	// before its speed is known. On a small file system it is an eighth.
	scratchFloor = 256 << 20
	// scratchAhead is how long the growth seen so far must fit: a look takes
	// place each second, copies return within 0.2 s, a job ends in 25 ms; the
	// rest is for hosts that are busy.
	scratchAhead = 5 * time.Second
	// fallAhead is the same for what others than the guest take from the file
	// system: our own images where they are on it, and other programs.
	fallAhead = 2 * time.Second
	// limitAhead is the margin below the limit, as time at the guest's speed: the
	// limit is a budget, and to exceed it by a little does no harm.
	limitAhead = 2 * time.Second
	// memory is how fast a speed is forgotten, by half: guests write in bursts.
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
	take int64 // by the whole point at most, on whichever file system it is
	has  int64 // by the point so far at most; what is allocated ahead may exceed take
}

// scratchWatch knows when scratch space gets short. Feed it with note.
//
// What the guest takes of the file system libvirt tells. What else is taken may be the
// point's, where the repository shares that space; whether it does, device numbers do not
// tell (subvolumes of btrfs, datasets of ZFS and overlays have their own). So it counts as
// the point's up to what the point has taken so far, and only the rest as taken by others. (A
// file system may show late what it has given.) Beside a point that is elsewhere a third
// program counts as the point for that many bytes, which matters only once the point has no
// rest: then the job is about to end.
type scratchWatch struct {
	limit int64 // bytes that the scratch files may take; 0: no limit
	max   int64 // bytes that they can take: the size of all disks

	first, now scratchSample
	took       int64   // by the point, bytes
	growth     float64 // of the scratch files, bytes a second
	ours       float64 // what the point takes, bytes a second
	others     float64 // what neither the guest nor the point takes, bytes a second
	looks      int
}

// note takes a sample; samples come in order.
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

// fallSince is how many bytes of the free space others than the guest have taken since an
// earlier sample; negative where they have freed some.
func (s scratchSample) fallSince(earlier scratchSample) int64 {
	return earlier.free - s.free - (s.used - earlier.used)
}

// reserve is what has to be free, in bytes. Where that much is, the guest's writes find
// space for at least
//
//   - scratchAhead, at the guest's own speed
//   - fallAhead, at the guest's speed and that of everybody else
//
// as seen so far. Less is enough in two cases: the guest needs no more than the scratch
// files can still grow by, and the point takes no more than its rest. So a backup that fits, together with the guest's share, goes on however
// fast it writes.
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

// writeUnderWay is what a write of the guest can take before libvirt counts it, in bytes.
const writeUnderWay = 4 << 20

// taker says who has taken the space: the guest, unless others have taken more.
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

// pause is the time to the next look: the less space is left, the sooner, and
// soon as long as the guest's speed is not known.
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
