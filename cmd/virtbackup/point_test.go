package main

import "testing"

func TestSplitPoint(t *testing.T) {
	for in, want := range map[string][2]string{
		"vm1": {"vm1", ""}, "vm1@check2": {"vm1", "check2"}, "a@b@check2": {"a@b", "check2"}, "@vm": {"@vm", ""}, "vm1@": {"vm1", ""},
	} {
		if domain, id := splitPoint(in); domain != want[0] || id != want[1] {
			t.Errorf("splitPoint(%q) = %q, %q, want %q", in, domain, id, want)
		}
	}
}
