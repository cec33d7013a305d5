package backup

import (
	"fmt"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
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
		request Request
		points  int
		want    string
		warned  string // "" nothing
		why     string
	}{
		{"inc up to the bound", Request{Kind: inc, MaxChain: 3}, 2, "check3 inc since check2: vda inc, vdb inc", "", ""},
		{"inc beyond", Request{Kind: inc, MaxChain: 3}, 3, "check4 inc since check3: vda inc, vdb inc",
			"the chain of disk vda has 4 images with check4, more than 3 (--max-chain): virtbackup full vm1 starts a new one", ""},
		{"inc since an early point", Request{Kind: inc, MaxChain: 3, Since: "check2"}, 5, "check6 inc since check2: vda inc, vdb inc", "", ""},
		{"inc since a late point", Request{Kind: inc, MaxChain: 3, Since: "check4"}, 5, "check6 inc since check4: vda inc, vdb inc", "has 5 images with check6", ""},
		{"diff", Request{Kind: diff, MaxChain: 1}, 3, "diff4 diff since check1: vda inc (no bitmap), vdb inc (no bitmap)", "has 2 images with diff4, more than 1", ""},
		{"auto up to the bound", Request{Kind: Auto, MaxChain: 3}, 2, "check3 inc since check2: vda inc, vdb inc", "", "inc: since check2"},
		{"auto beyond", Request{Kind: Auto, MaxChain: 3}, 3, "check4 full: vda full, vdb full", "",
			"full: the chain of disk vda has 3 images as of check3, and may have 3 (--max-chain)"},
		{"auto of ones", Request{Kind: Auto, MaxChain: 1}, 1, "check2 full: vda full, vdb full", "", "has 1 images as of check1, and may have 1"},
		{"the default", Request{Kind: Auto}, 199, "check200 inc since check199: vda inc, vdb inc", "", "inc: since check199"},
		{"the default, beyond", Request{Kind: Auto}, 200, "check201 full: vda full, vdb full", "", "and may have 200"},
		{"auto at the hard limit", Request{Kind: Auto, MaxChain: 1000}, 330, "check331 full: vda full, vdb full", "", "too long for qemu-img to open"},
		{"a full", Request{Kind: full, MaxChain: 1}, 330, "check331 full: vda full, vdb full", "", ""},
	} {
		tt.request.Domain = "vm1"
		p, err := MakePlan(tt.request, chained(tt.points))
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
	p, err := MakePlan(Request{Domain: "vm1", Kind: inc, MaxChain: 3, Fallback: FallbackFull}, s)
	if err != nil || strings.Contains(strings.Join(p.Warnings, "\n"), "chain of disk vda") || !strings.Contains(strings.Join(p.Warnings, "\n"), "chain of disk vdb") {
		t.Errorf("warned of %q, %v, want the chain of vdb alone", p.Warnings, err)
	}
}

// The first image whose joined name would be too long is refused, and the one before it is
// not.
func TestHardLimitOfChains(t *testing.T) {
	refused := func(s State, kind manifest.Kind) error {
		_, err := MakePlan(Request{Domain: "vm1", Kind: kind, MaxChain: 1000}, s)
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
