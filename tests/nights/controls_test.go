package nights

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

// calmLane is a lane in which nothing is left to chance: a disk vda of 8 MiB.
func calmLane(t *testing.T, kind string, p policy) *lane {
	t.Helper()
	l := newLane(t, newFilesystem(t, kind, 512), p, 1, new(numbers))
	l.calm = true
	l.do(func(d *fakelibvirt.Domain) error {
		for _, target := range d.Targets() {
			delete(l.guest.disks, target)
			if err := d.Detach(target); err != nil {
				return err
			}
		}
		return l.guest.attach(l.random(), d, "vda", 8<<20)
	})
	return l
}

// make makes a point after the guest has written random data, or zeros, to clusters.
func (l *lane) make(kind string, first, last int64, zero bool) pointOnDisk {
	l.t.Helper()
	r := l.random()
	p := plan{kind: kind}
	var truths map[string]truth
	l.do(func(d *fakelibvirt.Domain) (err error) {
		for c := first; c <= last; c++ {
			data := make([]byte, cluster)
			if !zero {
				for i := range data {
					data[i] = byte(1 + r.IntN(255))
				}
			}
			l.guest.write(d, "vda", c*cluster, data)
		}
		truths, err = l.guest.take(d)
		return err
	})
	if !l.tryBackUp(r, &p, truths, 0) {
		l.fatalf("no point")
	}
	l.night++
	l.clock = l.clock.AddDate(0, 0, 1)
	all := readPoints(l.t, l.repo)
	return all[len(all)-1]
}

// forgetZeros makes the zero clusters of an image unallocated (docs/interop/qcow2.txt), as a
// merge would that forgot them, and returns how many there were.
func forgetZeros(t *testing.T, image string) (n int) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(at int64) uint64 {
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		return binary.BigEndian.Uint64(b)
	}
	const offsets = 0x00fffffffffffe00
	l1, entries := int64(read(40)), read(36)>>32
	for i := range int64(entries) {
		l2 := int64(read(l1+8*i) & offsets)
		for k := int64(0); l2 != 0 && k < cluster/8; k++ {
			if read(l2+8*k)&1 == 0 {
				continue
			}
			if _, err := f.WriteAt(make([]byte, 8), l2+8*k); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return n
}

// The judge finds what it is there to find.
func TestControls(t *testing.T) {
	t.Parallel()
	wrong := func(t *testing.T, err error) {
		t.Helper()
		if err == nil {
			t.Error("it was not found")
		}
		t.Log(err)
	}
	t.Run("forgotten zero clusters", func(t *testing.T) {
		l := calmLane(t, "ext4", policy{daily: 30})
		l.make("full", 0, 9, false)
		p := l.make("inc", 3, 5, true)
		image := filepath.Join(p.dir, "vda.qcow2")
		if n := forgetZeros(t, image); n != 3 {
			t.Fatalf("%d zero clusters, want 3", n)
		}
		wrong(t, compare(p, l.points[p.ID].disks))
	})
	t.Run("a parent that is deleted", func(t *testing.T) {
		l := calmLane(t, "ext4", policy{daily: 30})
		first := l.make("full", 0, 9, false)
		p := l.make("inc", 3, 5, false)
		if err := os.Rename(first.dir, first.dir+".gone"); err != nil {
			t.Fatal(err)
		}
		wrong(t, compare(p, l.points[p.ID].disks))
	})
	t.Run("a cluster of the parent", func(t *testing.T) {
		l := calmLane(t, "ext4", policy{daily: 30})
		l.make("full", 0, 9, false)
		p := l.make("inc", 3, 5, false)
		other := map[string]truth{"vda": l.points["check1"].disks["vda"]}
		wrong(t, compare(p, other))
	})
	t.Run("a point that is lost", func(t *testing.T) {
		l := calmLane(t, "ext4", policy{daily: 30})
		l.make("full", 0, 9, false)
		l.make("inc", 3, 5, false)
		l.make("inc", 3, 5, false)
		before := readPoints(t, l.repo)
		l.ok(l.virtbackup(nil, "prune", "vm1", "--remove", "check2"))
		wrong(t, l.missing(before, readPoints(t, l.repo)))
	})
	t.Run("a point too many", func(t *testing.T) {
		l := calmLane(t, "ext4", policy{last: 2})
		l.make("full", 0, 9, false)
		l.make("inc", 3, 5, false)
		l.make("inc", 3, 5, false)
		before := readPoints(t, l.repo)
		done := l.virtbackup(nil, "prune", "vm1", "--json", "--keep-last", "3")
		wrong(t, l.judgePrune(before, readPoints(t, l.repo), done))
	})
	t.Run("garbage", func(t *testing.T) {
		l := calmLane(t, "ext4", policy{last: 1})
		l.make("full", 0, 127, false)
		for range 3 {
			l.make("inc", 0, 31, false)
		}
		all := readPoints(t, l.repo)
		for i := range all[:3] {
			all[i].Hidden = true
		}
		wrong(t, l.garbage(all))
	})
	t.Run("a hidden point that nobody needs", func(t *testing.T) {
		l := calmLane(t, "ext4", policy{daily: 30})
		l.make("full", 0, 9, false)
		l.make("full", 0, 9, false)
		all := readPoints(t, l.repo)
		all[0].Hidden = true
		wrong(t, l.unneeded(all))
	})
}

// The model of the policy agrees with the golden cases (shared/reference/retention.md), as far
// as it has the rules.
func TestModelOfThePolicy(t *testing.T) {
	points := func(times ...string) (all []pointOnDisk) {
		for i, text := range times {
			at, err := time.Parse("2006-01-02 15:04", text)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, pointOnDisk{ID: fmt.Sprintf("check%d", i+1), Time: at})
		}
		return all
	}
	var forty []string
	for i := range 40 {
		forty = append(forty, time.Date(2026, 1, 1+i, 1, 0, 0, 0, time.UTC).Format("2006-01-02 15:04"))
	}
	diff := points("2026-03-01 01:00", "2026-03-02 01:00", "2026-03-03 01:00")
	diff[2].ID = "diff3"
	for _, c := range []struct {
		points []pointOnDisk
		policy policy
		want   string
	}{
		{points(forty...), policy{daily: 7}, "check34 check35 check36 check37 check38 check39 check40"},
		{points(forty...), policy{daily: 7, weekly: 4, month: 3}, "check25 check31 check32 check34 check35 check36 check37 check38 check39 check40"},
		{points("2026-03-01 01:00", "2026-03-01 13:00", "2026-03-02 01:00", "2026-03-02 13:00", "2026-03-03 01:00", "2026-03-03 13:00"), policy{daily: 2}, "check4 check6"},
		{points("2026-03-01 01:00", "2026-03-02 01:00", "2026-03-03 01:00", "2026-03-10 01:00", "2026-03-20 01:00"), policy{daily: 3}, "check3 check4 check5"},
		{points("2024-01-01 01:00", "2024-01-05 01:00", "2024-01-11 01:00"), policy{withinDays: 7}, "check2 check3"},
		{points("2026-10-24 00:30", "2026-10-25 00:30", "2026-10-25 01:30"), policy{hourly: 2}, "check2 check3"},
		{points("2026-10-24 00:30", "2026-10-25 00:30", "2026-10-25 01:30"), policy{daily: 2}, "check1 check3"},
		{points("2026-03-01 01:00", "2026-03-01 23:30", "2026-03-02 12:00"), policy{daily: 2}, "check1 check3"},
		{points("2026-12-31 01:00", "2027-01-03 01:00", "2027-01-04 01:00"), policy{weekly: 2}, "check2 check3"},
		{diff, policy{last: 1}, "check2 diff3"},
	} {
		got := ""
		kept := c.policy.keeps(c.points, nil)
		for _, p := range c.points {
			if kept[p.ID] {
				got += " " + p.ID
			}
		}
		if got != " "+c.want {
			t.Errorf("%+v keeps%s, want %s", c.policy, got, c.want)
		}
	}
}
