package chains

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// auto --synthetic ends a chain that is too long with an inc, and makes that a full from the
// repository alone. Its checkpoint is a base as before, and nothing that it was made from is lost.
func TestSynthetic(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	auto := func(kind manifest.Kind, parent, why string) {
		t.Helper()
		n := int64(len(s.Points))
		s.Write("vda", n<<19, 64<<10, byte(n+1))
		s.Write("vdb", n<<15, 4<<10, byte(n+1))
		got := s.BackUp(0, "auto", "--max-chain", "2", "--full-every", "30d", "--synthetic")
		if m := got.Point; m.Kind != kind || m.Parent != parent || !strings.Contains(got.Why, why) {
			t.Errorf("auto made %s, %s since %q: %q; want %s since %q: %q", m.ID, m.Kind, m.Parent, got.Why, kind, parent, why)
		}
	}
	auto("full", "", "the first point")
	auto("inc", "check1", "since check1")
	auto("full", "", "inc: since check2, to be made standalone: the chain of disk vda has 2 images as of check2")
	auto("inc", "check3", "inc: since check3")
	auto("full", "", "as of check4")
	s.Check()
	for _, i := range []int{2, 4} {
		if m := s.Points[i].Manifest; !m.Synthetic || m.Identity == "" || m.Checkpoint == "" {
			t.Errorf("%s: synthetic %v, identity %q, checkpoint %q", m.ID, m.Synthetic, m.Identity, m.Checkpoint)
		}
	}
}
