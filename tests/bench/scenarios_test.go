package bench

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// scenario is a source and its contestants.
type scenario struct {
	source string
	what   string
	places []place // in small runs the first only
	stage  func(*testing.T, settings, place) *stage
	ways   []way
}

var (
	both = []place{tmpfs, disk}

	// fulls are the contestants of whole disks.
	fulls = []way{
		{"nbdcopy-null", (*stage).nbdcopyNull},
		{"read", (*stage).read},
		{"direct-write", (*stage).directWrite},
		{"full", (*stage).full},
		{"nbdcopy-raw", (*stage).nbdcopyRaw},
		{"qemu-img", (*stage).qemuImg},
		{"nbdcopy-qemu-nbd", (*stage).nbdcopyQemuNBD},
		{"nbdcopy-qemu-nbd-direct", (*stage).nbdcopyQemuNBDDirect},
		{"virtnbdbackup", (*stage).virtnbdbackup},
	}
	zstds = []way{
		{fullZstd, (*stage).zstd},
		{"qemu-img-zstd", (*stage).qemuImgZstd},
	}
	incs = []way{
		{"inc", (*stage).inc},
		{"copy-on-read", (*stage).copyOnRead},
		{"virtnbdbackup-inc", (*stage).virtnbdbackupInc},
	}
	restores = []way{
		{"restore", (*stage).restore},
		{"qemu-img-chain", (*stage).qemuImgChain},
	}
	latent = []way{
		{"idle", disturb((*stage).idle)},
		{"idle-job", disturb((*stage).idleJob)},
		{"full", disturb((*stage).full)},
		{fullZstd, disturb((*stage).zstd)},
		{"nbdcopy-raw", disturb((*stage).nbdcopyRaw)},
		{"qemu-img", disturb((*stage).qemuImg)},
		{"qemu-img-zstd", disturb((*stage).qemuImgZstd)},
		{"nbdcopy-qemu-nbd", disturb((*stage).nbdcopyQemuNBD)},
		{"virtnbdbackup", disturb((*stage).virtnbdbackup)},
	}
)

// join is all ways of several lists.
func join(lists ...[]way) []way {
	var all []way
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// scenarios are the sources (a) to (e), a chain, a guest, two disks at once, and prunings.
func scenarios() []scenario {
	return slices.Concat([]scenario{
		{"a", "2 GiB of random data in an 8 GiB disk", both, filled(random),
			join(fulls, []way{{"copy", (*stage).copy}, {"full-off", (*stage).fullOff}}, zstds)},
		{"b", "2 GiB of text that compresses to half, in an 8 GiB disk", both, filled(prose), join(fulls, zstds)},
		{"c", "4 GiB, every other 64 KiB zeroed: zero clusters in the first half, zeros as data in the second",
			both, striped, fulls},
		{"d", "100 times 1 MiB changed on a 1 TiB disk", both, changed(changes{tib, 100, mib}),
			join(incs, []way{{"inc-100th", (*stage).inc100}, {"inc-off", (*stage).incOff}}, atOnce[:1])},
		{"d16g", "the same on a disk of 16 GiB", both, changed(changes{16 * gib, 100, mib}), incs[:1]},
		{"e", "4 KiB changed in each of 100,000 places of a 49 GiB disk", both,
			manyPlaces, incs},
		{"chain-1", "a full of (a)", both, chain(0, 0), join(restores, atOnce)},
		{"chain-30", "a full of (a) and 29 incs of 32 MiB", both, chain(29, 32), join(restores, servings, atOnce)},
		{"chain-100", "a full of (a) and 99 incs of 8 MiB", both, chain(99, 8), restores},
		{"inplace", "1 % changed of (a) since a point, the domain shut off", both, inPlaceStage,
			[]way{{"in-place", (*stage).inPlace}, {"restore", (*stage).restore}}},
		{"guest", "(a), while a guest writes 4 KiB every few milliseconds", both, filled(random), latent},
		{"commits", "1 GiB in an ext4 of 4 GiB, while a guest commits", both, database, committing},
	}, pairs, prunings)
}

// filled makes the stage of a disk with 2 GiB of data.
func filled(content func() io.Reader) func(*testing.T, settings, place) *stage {
	return func(t *testing.T, s settings, p place) *stage {
		t.Helper()
		size, data := 8*gib/s.shrink, 2*gib/s.shrink
		return newStage(t, s, p, newImage(t, p.dir(t), size, data, content()), size, data)
	}
}

// striped makes that of (c).
func striped(t *testing.T, s settings, p place) *stage {
	t.Helper()
	size := 4 * gib / s.shrink
	image := newImage(t, p.dir(t), size, size, random())
	var commands []string
	for at := int64(64 * kib); at < size; at += 128 * kib {
		how := "-z"
		if at > size/2 {
			how = "-P 0"
		}
		commands = append(commands, fmt.Sprintf("write -q %s %d 64k", how, at))
	}
	runScript(t, image, commands)
	return newStage(t, s, p, image, size, size/2)
}

// changed makes the stage of incrementals. What is scaled in small runs is the
// length of each change.
func changed(c changes) func(*testing.T, settings, place) *stage {
	return func(t *testing.T, s settings, p place) *stage {
		t.Helper()
		c.length /= s.shrink
		return newChanged(t, s, p, c, ourBase)
	}
}

// manyPlaces makes that of (e).
func manyPlaces(t *testing.T, s settings, p place) *stage {
	t.Helper()
	places := 100_000 / s.shrink
	return newChanged(t, s, p, changes{places * 512 * kib, places, 4 * kib}, ourBase)
}

// chain makes a full of the disk of (a) and incs that change 1 MiB in each of places equal parts
// of the disk. They are what is read, so they are at the place, too.
func chain(incs, places int64) func(*testing.T, settings, place) *stage {
	return func(t *testing.T, s settings, p place) *stage {
		t.Helper()
		st := filled(random)(t, s, p)
		st.base = filepath.Join(p.dir(t), "repo")
		st.sources = []string{st.base}
		ourBase(st)
		pattern := filepath.Join(st.qemu, "pattern")
		writePattern(t, pattern, mib)
		for i := range (incs + s.shrink - 1) / s.shrink {
			var commands []string
			for j := range places {
				at := st.size/places*j + i*300*kib%(st.size/places-mib)
				commands = append(commands, fmt.Sprintf("write -s %s %d 1M", pattern, at))
			}
			st.IO("vda", commands...)
			testdomain.Tool(t, testdomain.Binary(t), "--repo", st.base, "--quiet", "inc", st.Name)
		}
		st.IO("vda", "flush")
		return st
	}
}
