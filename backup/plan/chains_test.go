package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/retention"
)

// chained is a domain whose points check1, a full, to checkN are one chain.
func chained(n int) State {
	var points []manifest.Manifest
	for i := 1; i <= n; i++ {
		m := sealed(fmt.Sprintf("check%d", i), full)
		if i > 1 {
			m.Kind = inc
			for d := range m.Disks {
				m.Disks[d].Parent = manifest.ParentPath(fmt.Sprintf("check%d", i-1), m.Disks[d].Image)
			}
		}
		points = append(points, m)
	}
	s := state(points...)
	s.Dir = "/var/lib/virtbackup/vm1"
	return s
}

func TestMaxChain(t *testing.T) {
	for _, tt := range []struct {
		name    string
		request Wanted
		points  int
		want    string
		warned  string // "" nothing
		why     string
	}{
		{"inc up to the bound", Wanted{Kind: inc, MaxChain: 3}, 2, "check3 inc since check2: vda inc, vdb inc", "", ""},
		{"inc beyond", Wanted{Kind: inc, MaxChain: 3}, 3, "check4 inc since check3: vda inc, vdb inc",
			"the chain of disk vda has 4 images with check4, more than 3 (--max-chain): virtbackup full vm1 starts a new one", ""},
		{"inc since an early point", Wanted{Kind: inc, MaxChain: 3, Since: "check2"}, 5, "check6 inc since check2: vda inc, vdb inc", "", ""},
		{"inc since a late point", Wanted{Kind: inc, MaxChain: 3, Since: "check4"}, 5, "check6 inc since check4: vda inc, vdb inc", "has 5 images with check6", ""},
		{"diff", Wanted{Kind: diff, MaxChain: 1}, 3, "diff4 diff since check1: vda inc (no bitmap), vdb inc (no bitmap)", "has 2 images with diff4, more than 1", ""},
		{"auto up to the bound", Wanted{Kind: Auto, MaxChain: 3}, 2, "check3 inc since check2: vda inc, vdb inc", "", "inc: since check2"},
		{"auto beyond", Wanted{Kind: Auto, MaxChain: 3}, 3, "check4 full: vda full, vdb full", "",
			"full: the chain of disk vda has 3 images as of check3, and may have 3 (--max-chain)"},
		{"auto of ones", Wanted{Kind: Auto, MaxChain: 1}, 1, "check2 full: vda full, vdb full", "", "has 1 images as of check1, and may have 1"},
		{"the default", Wanted{Kind: Auto}, 199, "check200 inc since check199: vda inc, vdb inc", "", "inc: since check199"},
		{"the default, beyond", Wanted{Kind: Auto}, 200, "check201 full: vda full, vdb full", "", "and may have 200"},
		{"auto at the hard limit", Wanted{Kind: Auto, MaxChain: 1000}, 330, "check331 full: vda full, vdb full", "", "too long for qemu-img to open"},
		{"a full", Wanted{Kind: full, MaxChain: 1}, 330, "check331 full: vda full, vdb full", "", ""},
	} {
		tt.request.Domain = "vm1"
		p, err := Make(tt.request, chained(tt.points))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := describe(p); got != tt.want || !strings.Contains(p.Why, tt.why) {
			t.Errorf("%s: got %s, %q\nwant %s, %q", tt.name, got, p.Why, tt.want, tt.why)
		}
		if said := strings.Join(p.Warnings, "\n"); !strings.Contains(said, tt.warned) || tt.warned == "" && said != "" {
			t.Errorf("%s: warned of %q, want %q", tt.name, said, tt.warned)
		}
		checkPlan(t, p)
	}
}

// A disk that begins a new chain is not limited by the chain of the base.
func TestMaxChainOfOneDisk(t *testing.T) {
	s := chained(3)
	s.bitmap("check3", "vda").Size = -1
	p, err := Make(Wanted{Domain: "vm1", Kind: inc, MaxChain: 3, Fallback: FallbackFull}, s)
	if err != nil || strings.Contains(strings.Join(p.Warnings, "\n"), "chain of disk vda") || !strings.Contains(strings.Join(p.Warnings, "\n"), "chain of disk vdb") {
		t.Errorf("warned of %q, %v, want the chain of vdb alone", p.Warnings, err)
	}
}

// The first image whose joined name would be too long is refused, and the one before it is
// not.
func TestHardLimitOfChains(t *testing.T) {
	refused := func(s State, kind manifest.Kind) error {
		_, err := Make(Wanted{Domain: "vm1", Kind: kind, MaxChain: 1000}, s)
		return err
	}
	most := 0
	for n := 300; n < 400 && refused(chained(n), inc) == nil; n++ {
		most = n + 1
	}
	s := chained(most)
	images := manifest.ChainImages(s.Points, fmt.Sprintf("check%d", most), "vda")
	if got := manifest.JoinedLength(s.Dir, images); got > manifest.MaxJoined || got+len("../check999/") <= manifest.MaxJoined {
		t.Errorf("the longest chain has %d images and a joined name of %d bytes, want just %d at most", most, got, manifest.MaxJoined)
	}
	err := refused(s, inc)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the chain of disk vda would have %d images, and qemu-img could not open it", most+1)) ||
		fail.HintOf(err) != "virtbackup full vm1 starts a new chain" {
		t.Errorf("got %v, want a refusal and a hint", err)
	}
	if err := refused(s, full); err != nil {
		t.Errorf("a full: %v", err)
	}
	s.Dir += "/a-deeper-directory"
	s.Points = s.Points[:most-1]
	if refused(s, inc) == nil {
		t.Error("a deeper directory makes no difference")
	}
}

// aged is a chain of a full and incs, a day after the other, of which the last was made on
// that day.
func aged(n int, last time.Time) State {
	s := chained(n)
	for i := range s.Points {
		m := &s.Points[i]
		m.Time = last.AddDate(0, 0, i-n+1)
		if i > 0 {
			m.Parent = s.Points[i-1].ID
		}
	}
	s.Now = last.AddDate(0, 0, 1)
	return s
}

// hide removes points from the list, which stay parents.
func (s *State) hide(ids ...string) {
	for _, m := range s.Points {
		if slices.Contains(ids, m.ID) {
			s.Hidden = append(s.Hidden, m)
		}
	}
	s.Points = slices.DeleteFunc(s.Points, func(m manifest.Manifest) bool { return slices.Contains(ids, m.ID) })
}

func TestFullEvery(t *testing.T) {
	const (
		again = "check11 full: vda full, vdb full"
		next  = "check11 inc since check10: vda inc, vdb inc"
	)
	november := time.Date(2026, 11, 20, 2, 0, 0, 0, time.Local) // check10; check1 is of the 11th, now is the 21st
	years := func(n int) time.Time { return november.AddDate(n, 0, 0) }
	for _, tt := range []struct {
		name   string
		every  string
		change func(*State, *Wanted)
		want   string
		why    string
	}{
		{"on the day", "10d", nil, again, "full: the chain of check10 was last read in full 2026-11-11 02:00:00, more than 10d ago (--full-every)"},
		{"the day before", "11d", nil, next, "inc: since check10"},
		{"the full is hidden", "10d", func(s *State, _ *Wanted) { s.hide("check1", "check2", "check5") }, again, "2026-11-11"},
		{"merged into a later point", "10d", func(s *State, _ *Wanted) {
			s.Points = s.Points[5:]
			s.Points[0].Kind, s.Points[0].Parent, s.Points[0].FullTime = full, "", years(-1)
		}, again, "2025-11-20"},
		{"another full since", "8d", func(s *State, _ *Wanted) { s.Points[5].Kind, s.Points[5].Parent = full, "" }, next, ""},
		{"a copy since", "10d", func(s *State, _ *Wanted) { s.Points[5].Kind = kindCopy }, again, ""},
		{"the chain is broken", "1d", func(s *State, _ *Wanted) { s.Points = s.Points[5:] }, next, ""},
		{"the clock went back now", "10d", func(s *State, _ *Wanted) { s.Now = years(-50) }, next, ""},
		{"the clock was ahead for the full", "10d", func(s *State, _ *Wanted) { s.Points[0].Time = years(10) }, next, ""},
		{"and that is long ago", "9d", func(s *State, _ *Wanted) { s.Points[0].Time = years(10) }, again, "2026-11-12"},
		{"the clock was behind for the full", "99y", func(s *State, _ *Wanted) { s.Points[0].Time = years(-100) }, again, "1926-11-20"},
		{"the clock was ahead for the base", "11d", func(s *State, _ *Wanted) { s.Points[9].Time = years(10) }, next, ""},
		{"the clock was behind for the base", "11d", func(s *State, _ *Wanted) { s.Points[9].Time = years(-50) }, next, ""},
		{"all lies ahead", "1h", func(s *State, _ *Wanted) {
			for i := range s.Points {
				s.Points[i].Time = years(10)
			}
		}, next, ""},
		{"synthetic", "10d", func(_ *State, r *Wanted) { r.Synthetic = true }, next,
			"inc: since check10, to be made standalone: the chain of check10 was last full 2026-11-11 02:00:00, more than 10d ago (--full-every)"},
		{"synthetic, of a merged full", "10d", func(s *State, r *Wanted) {
			r.Synthetic, s.Points = true, s.Points[5:]
			s.Points[0].Kind, s.Points[0].Parent, s.Points[0].FullTime = full, "", years(-1)
		}, next, "inc: since check10"},
		{"synthetic, too long", "1y", func(_ *State, r *Wanted) { r.Synthetic, r.MaxChain = true, 10 }, next, "to be made standalone: the chain of disk vda has 10 images as of check10, and may have 10 (--max-chain)"},
		{"no base", "10d", func(s *State, r *Wanted) { r.Synthetic, s.Points, s.Checkpoints = true, nil, nil }, "check11 full: vda full, vdb full", "full: the first point"},
	} {
		s := aged(10, november)
		every, err := retention.ParseSpan(tt.every)
		if err != nil {
			t.Fatal(err)
		}
		r := Wanted{Domain: "vm1", Kind: Auto, FullEvery: every}
		if tt.change != nil {
			tt.change(&s, &r)
		}
		p, err := Make(r, s)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := describe(p); got != tt.want || !strings.Contains(p.Why, tt.why) {
			t.Errorf("%s: got %s, %q\nwant %s, %q", tt.name, got, p.Why, tt.want, tt.why)
		}
		if standalone := strings.Contains(tt.why, "standalone"); standalone != (p.Standalone != "") {
			t.Errorf("%s: standalone because of %q", tt.name, p.Standalone)
		}
		checkPlan(t, p)
	}
}

// What qemu-img could not open is not made standalone either, whichever disk it is.
func TestSyntheticAtTheHardLimit(t *testing.T) {
	s := chained(330)
	for i := range s.Points[:300] { // vda began its chain late
		s.Points[i].Disks = s.Points[i].Disks[1:]
	}
	s.Points[300].Disks[0].Parent = ""
	p, err := Make(Wanted{Domain: "vm1", Kind: Auto, MaxChain: 10, Synthetic: true}, s)
	if err != nil || p.Kind != full || p.Standalone != "" || !strings.Contains(p.Why, "disk vdb would be too long for qemu-img") {
		t.Errorf("%s, %q, %v", describe(p), p.Why, err)
	}
}
