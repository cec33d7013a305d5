package chains

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// auto does not extend a chain that has the maximum number of images; inc and diff
// warn of it.
func TestMaxChain(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.Rejects(testsite.Reject(2, "--max-chain must be at least 1, not 0", "--max-chain 200"), []string{"auto", s.Name, "--max-chain", "0"})
	s.Rejects(testsite.Reject(2, "--max-chain must be at least 1, not -1", "--max-chain 200"), []string{"inc", s.Name, "--max-chain", "-1"})
	change := func() {
		t.Helper()
		n := int64(len(s.Points))
		s.Write("vda", n<<19, 64<<10, byte(n+1))
		s.Write("vdb", n<<15, 4<<10, byte(n+1))
	}
	auto := func(kind manifest.Kind, id, why string) {
		t.Helper()
		change()
		got := s.BackUp(0, "auto", "--max-chain", "2")
		if got.Point.Kind != kind || got.Point.ID != id || !strings.Contains(got.Why, why) {
			t.Errorf("auto made %s %s: %q; want %s %s: %q", got.Point.Kind, got.Point.ID, got.Why, kind, id, why)
		}
	}
	auto("full", "check1", "the first point")
	auto("inc", "check2", "since check1")
	const why = "full: the chain of disk vda has 2 images as of check"
	auto("full", "check3", why+"2, and may have 2 (--max-chain)")
	auto("inc", "check4", "since check3")
	change()
	inc := s.BackUp(3, "inc", "--max-chain", "2")
	const words = "the chain of disk vda has 3 images with check5, more than 2 (--max-chain): virtbackup full "
	testsite.WantSaid(t, inc.Warnings, words+s.Name)
	testsite.WantSaid(t, inc.Point.Warnings, words)
	if inc.Point.Parent != "check4" {
		t.Errorf("the inc is since %s, want check4", inc.Point.Parent)
	}
	change()
	if got := s.BackUp(0, "inc", "--since", "check1", "--max-chain", "2").Point; got.Parent != "check1" {
		t.Errorf("the inc is since %s, want check1", got.Parent)
	}
	testsite.WantSaid(t, s.BackUp(3, "diff", "--since", "check5", "--max-chain", "2").Warnings, "the chain of disk vdb has 4 images with diff7")
	change()
	auto("full", "check8", why+"6")
	s.Check()
}
