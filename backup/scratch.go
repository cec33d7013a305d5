package backup

import (
	"fmt"
	"math"
	"time"
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
	// shrinkAhead is the same for what others take from the file system, and for
	// our own images where they are on it: these stop where it is full.
	shrinkAhead = 2 * time.Second
	// limitAhead is by how much a limit is undercut: it is a budget, and to
	// pass it by a little harms nobody.
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
	own  ownSpace
}

// ownSpace is what the point takes of the file system that the scratch files are
// on; all 0 where the repository is on another one.
type ownSpace struct {
	// before and after are how much it took just before and just after free was
	// looked at, in bytes: the copy goes on meanwhile.
	before, after int64
	left          int64 // that it will still take at most, bytes
}

// scratchWatch knows when scratch space gets short. Feed it with note.
type scratchWatch struct {
	limit int64 // bytes that the scratch files may take; 0: no limit
	most  int64 // bytes that they can take: the size of all disks

	now    scratchSample
	growth float64 // of the scratch files, bytes a second
	shrink float64 // of the free space, by others than the point, bytes a second
	ours   float64 // of the free space, by the point, bytes a second
	looks  int
}

// note takes a sample; samples come in order.
func (w *scratchWatch) note(s scratchSample) {
	if seconds := s.at.Sub(w.now.at).Seconds(); w.looks > 0 && seconds > 0 {
		keep := math.Exp2(-seconds / memory.Seconds())
		w.growth = max(w.growth*keep, float64(s.used-w.now.used)/seconds)
		w.ours = max(w.ours*keep, float64(s.own.after-w.now.own.before)/seconds)
		w.shrink = max(w.shrink*keep, float64(w.now.free-s.free-(s.own.after-w.now.own.before))/seconds)
	}
	w.now = s
	w.looks++
}

// reserve is what has to be free, in bytes: what the guest may need, never more
// than the scratch files can still grow by, and what the point takes meanwhile,
// never more than it will take at all. So a backup that fits, together with the
// guest's share, goes on however fast it writes.
func (w *scratchWatch) reserve() int64 {
	need := max(float64(scratchLeast(w.now.size)), w.growth*scratchAhead.Seconds(), w.shrink*shrinkAhead.Seconds())
	guest := min(need, float64(max(0, w.most-w.now.used)))
	return int64(guest + min(w.ours*shrinkAhead.Seconds(), float64(w.now.own.left)))
}

// scratchLeast is what is always left free of a file system of that size.
func scratchLeast(size int64) int64 { return min(scratchFloor, size/8) }

// short says why the job has to end now, or "".
func (w *scratchWatch) short() string {
	s := w.now
	if margin := min(w.growth*limitAhead.Seconds(), float64(w.limit/4)); w.limit > 0 && float64(s.used)+margin >= float64(w.limit) {
		return fmt.Sprintf("the guest has overwritten %s while the job ran, which QEMU keeps in the scratch files, "+
			"and goes on at %s a second: that reaches the limit of %s", sizeText(s.used), sizeText(int64(w.growth)), sizeText(w.limit))
	}
	if reserve := w.reserve(); s.free < reserve {
		return fmt.Sprintf("%s are free for the scratch files, less than the reserve of %s: the guest has overwritten %s "+
			"while the job ran and goes on at %s a second, and its writes would fail without space",
			sizeText(s.free), sizeText(reserve), sizeText(s.used), sizeText(int64(w.growth)))
	}
	return ""
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

// sizeText is a number of bytes for people.
func sizeText(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1024 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
