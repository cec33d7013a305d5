package argument

import (
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

func TestPointArg(t *testing.T) {
	known := func(domain string) bool {
		return slices.Contains([]string{"vm1", "vm1@home", "vm1@check2", "a@b", "alone@check2"}, domain)
	}
	for in, want := range map[string][2]string{
		"vm1": {"vm1", ""}, "vm1@check3": {"vm1", "check3"}, "vm1@2026-11-20 02:00": {"vm1", "2026-11-20 02:00"},
		"a@b": {"a@b", ""}, "a@b@check2": {"a@b", "check2"}, "vm1@home": {"vm1@home", ""}, "vm1@check2@latest": {"vm1@check2", "latest"},
		"@vm": {"@vm", ""}, "alone@check2": {"alone@check2", ""}, "unknown@check1": {"unknown", "check1"},
	} {
		if domain, at, err := Point(in, known); err != nil || domain != want[0] || at != want[1] {
			t.Errorf("Point(%q) = %q, %q, %v, want %q", in, domain, at, err, want)
		}
	}
	// An empty shell variable behind the @ must not mean all points.
	for _, in := range []string{"vm1@check2", "vm1@", "new@"} {
		if domain, at, err := Point(in, known); !fail.Is(err, fail.Usage) || fail.HintOf(err) == "" {
			t.Errorf("Point(%q) = %q, %q, %v", in, domain, at, err)
		}
	}
}
