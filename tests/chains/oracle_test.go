package chains

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// oracleRounds is how many points one oracle makes after its first full.
const oracleRounds = 10

// Every point holds the disks as they were at its instant, whatever is written and however
// points are made: compressed or not, with O_DIRECT or on a file system that refuses it.
// VIRTBACKUP_SEED repeats a run; VIRTBACKUP_SOAK=1h goes on for an hour, as make
// soak does.
func TestOracle(t *testing.T) {
	seed := testsite.NewSeed(t)
	soak := testdomain.Soak(t)
	for start := time.Now(); ; seed++ {
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { newOracle(t, seed).run(oracleRounds) }) {
			t.Fatalf("VIRTBACKUP_SEED=%d repeats it", seed)
		}
		if time.Since(start) >= soak {
			return
		}
	}
}

// oracle writes at random, and knows what every point must hold.
type oracle struct {
	*testsite.Site
	*rand.Rand
	size   map[string]int64 // of the disks, as they grow
	places []string         // where the repository may lie: with O_DIRECT, without
	deck   []int            // of tunings
	own    *testsite.Site   // its first repository
	forks  []*testsite.Site // copies of the repository, written to beside it
	saved  map[string]saved // disks as they were once, by target
}

// saved is a copy of a disk's file.
type saved struct {
	file string
	size int64
}

func newOracle(t *testing.T, seed uint64) *oracle {
	t.Helper()
	const odd = 48<<20 + 37*512 // no multiple of any cluster size
	d := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: odd})
	o := &oracle{Site: testsite.New(t, d), Rand: rand.New(rand.NewPCG(seed, 0)), size: map[string]int64{"vda": 64 << 20, "vdb": odd}}
	o.places = []string{filepath.Dir(o.Repo), withoutDirect(t)}
	o.own, o.saved = o.Site, map[string]saved{}
	o.At(o.places[o.IntN(2)])
	o.MayWarn = true
	return o
}

func (o *oracle) run(rounds int) {
	o.T.Helper()
	o.write()
	o.make("full")
	moves := o.Perm(rounds)[:3]
	for round := range rounds {
		if o.IntN(4) == 0 {
			o.grow([]string{"vda", "vdb"}[o.IntN(2)])
		}
		if slices.Contains(moves, round) {
			o.moveOn()
		}
		o.betray()
		o.write()
		o.sleep()
		o.point()
		o.goBack()
		o.wake()
		o.Site = o.own
	}
	for _, s := range append(o.forks, o.own) {
		s.Check()
		s.Program.Must(o.T, nil, "verify", "--quiet")
	}
}

// betray sometimes makes one thing look like another: it copies the repository and both go
// on, rolls a disk back in place, or frees a number.
func (o *oracle) betray() {
	o.T.Helper()
	if len(o.forks) > 0 && o.IntN(2) == 0 {
		o.Site = o.forks[o.IntN(len(o.forks))]
		o.T.Logf("in the copy %s", o.Repo)
	}
	switch o.IntN(8) {
	case 0:
		if len(o.forks) < 2 {
			o.forks = append(o.forks, o.Copied())
			o.T.Log("the repository is copied")
		}
	case 1:
		o.rollBack()
	case 2:
		o.removeNewest()
	}
}

// sleep ends or saves the domain sometimes, so that the point is made while it is off.
func (o *oracle) sleep() {
	o.T.Helper()
	switch o.IntN(6) {
	case 0, 1:
		o.Destroy()
	case 2:
		testdomain.Virsh(o.T, "managedsave", o.Name)
	default:
		return
	}
	o.T.Logf("the domain is off: %s", strings.TrimSpace(testdomain.Virsh(o.T, "domstate", "--reason", o.Name)))
}

// wake starts the domain if it is off, from its saved memory if it has such.
func (o *oracle) wake() {
	o.T.Helper()
	if o.State() == "shut" {
		o.Start()
	}
}

// rollBack restores the saved content of a disk's file, into the same file; the first call
// saves it.
func (o *oracle) rollBack() {
	o.T.Helper()
	target := []string{"vda", "vdb"}[o.IntN(2)]
	source := o.Disk(target).Source
	o.Destroy()
	defer o.Start()
	old, ok := o.saved[target]
	if !ok {
		o.saved[target] = saved{source + ".saved", o.size[target]}
		testdomain.Tool(o.T, "cp", "--sparse=always", source, source+".saved")
		o.T.Logf("%s is saved", target)
		return
	}
	testdomain.Tool(o.T, "dd", "if="+old.file, "of="+source, "bs=1M", "status=none")
	o.size[target] = old.size
	delete(o.saved, target)
	o.T.Logf("%s is rolled back", target)
}

// removeNewest removes the newest point, by virtbackup or by hand.
func (o *oracle) removeNewest() {
	o.T.Helper()
	last := len(o.Points) - 1
	if last < 1 {
		return
	}
	id := o.Points[last].ID
	o.Points = o.Points[:last]
	o.T.Logf("%s is removed", id)
	if o.IntN(2) == 0 {
		o.Program.Must(o.T, nil, "release", o.Name+"@"+id, "--points")
		return
	}
	if err := os.RemoveAll(filepath.Join(o.Repo, o.Name, id)); err != nil {
		o.T.Fatal(err)
	}
}

// point makes a point of a kind chosen at random.
func (o *oracle) point() {
	o.T.Helper()
	switch n := o.IntN(20); {
	case n < 7:
		o.make("inc")
	case n < 12:
		o.make("inc", "--since", o.base())
	case n < 14:
		o.make("diff")
	case n < 17:
		o.make("diff", "--since", o.base())
	case n < 18:
		o.make("copy")
	default:
		o.make("full")
	}
}

// make makes a point with the tuning that next returns.
func (o *oracle) make(kind string, args ...string) {
	o.T.Helper()
	u := o.next()
	p := tuned(o.Site, u, kind, args...)
	o.T.Logf("%s: %s since %q, --compress %s, --direct %s, in a place with O_DIRECT %v",
		p.ID, kind, p.Parent, u.compress, u.direct, takesDirect(o.T, o.Repo))
}

// next deals from a deck, so that eight points have all of it: half of them are
// compressed, and of each half one goes through the page cache whatever the file
// system can do.
func (o *oracle) next() tuning {
	if len(o.deck) == 0 {
		o.deck = o.Perm(8)
	}
	card := o.deck[0]
	o.deck = o.deck[1:]
	u := tuning{"none", "auto"}
	if card%2 == 0 {
		u.compress = []string{"zstd", fmt.Sprintf("zstd:%d", 1+o.IntN(9))}[o.IntN(2)]
	}
	if card < 2 {
		u.direct = "never"
	}
	return u
}

// moveOn moves the repository to the other file system.
func (o *oracle) moveOn() {
	o.T.Helper()
	to := o.places[0]
	if filepath.Dir(o.Repo) == to {
		to = o.places[1]
	}
	move(o.Site, to)
}

// base is any point that can be a base.
func (o *oracle) base() string {
	var bases []string
	for _, p := range o.Points {
		if p.IsBase() {
			bases = append(bases, p.ID)
		}
	}
	return bases[o.IntN(len(bases))]
}

// grow makes a disk up to 24 MiB larger, to any number of sectors.
func (o *oracle) grow(target string) {
	o.T.Helper()
	o.size[target] += 512 * (1 + o.Int64N(24<<20/512))
	testdomain.Virsh(o.T, "blockresize", o.Name, target, fmt.Sprintf("%dB", o.size[target]))
}

// write changes both disks, or now and then one only.
func (o *oracle) write() {
	o.T.Helper()
	for _, target := range []string{"vda", "vdb"} {
		if target == "vdb" && o.IntN(8) == 0 {
			continue
		}
		var commands []string
		for range 5 + o.IntN(40) {
			commands = append(commands, o.command(o.size[target]))
		}
		o.IO(target, commands...)
	}
}

// command is one random request to a disk of that size.
func (o *oracle) command(size int64) string {
	offset, length := o.place(size)
	switch n := o.IntN(10); {
	case n < 1:
		return fmt.Sprintf("write -s %s %d %d", o.Noise(), offset, length)
	case n < 5:
		return fmt.Sprintf("write -P %#x %d %d", 1+o.IntN(255), offset, length)
	case n < 6:
		return fmt.Sprintf("write -P 0 %d %d", offset, length) // zeros as data
	case n < 7:
		return fmt.Sprintf("write -z %d %d", offset, length)
	case n < 8:
		return fmt.Sprintf("write -z -u %d %d", offset, length)
	default:
		return fmt.Sprintf("discard %d %d", offset, length)
	}
}

// place is a range of a disk: aligned to clusters, sectors or not at all, of a
// few bytes up to some MiB, often at the end of the disk or in a small part of
// it, so that requests hit what earlier ones have written.
func (o *oracle) place(size int64) (offset, length int64) {
	unit := []int64{1, 512, 4 << 10, 64 << 10, 1 << 20}[o.IntN(5)]
	length = unit * (1 + o.Int64N(min(64, 4<<20/unit)))
	switch o.IntN(6) {
	case 0:
		offset = size - length
	case 1, 2:
		offset = o.Int64N(8 << 20)
	default:
		offset = o.Int64N(size - length)
	}
	if unit > 1 || o.IntN(2) == 0 {
		offset -= offset % unit
	}
	return offset, min(length, size-offset)
}
