package checkpoint

import "testing"

// Checkpoints of this repository never count as another's, even if instants.json is lost or
// damaged, when none is known to be ours.
func TestOfElsewhere(t *testing.T) {
	const here, former, other = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000", "33333333-0000-4000-8000-000000000000"
	const full = "check1." + id1
	for _, c := range []struct {
		name, description string
		elsewhere         bool
	}{
		{full, Description(other, "check1"), true},
		{full, Description(former, "check1"), true},
		{"check1", Description(other, "check1"), true}, // of format 1
		{full, Description(here, "check1"), false},
		{"check1", Description(here, "check1"), false},
		{full, Description(other, "check2"), false},
		{"check2", Description(other, "check1"), false},
		{full, "somebody " + other + " check1", false},
		{full, Description(other, "check1") + " more", false},
		{"check1.of-somebody", Description(other, "check1"), false},
	} {
		all, err := Survey([]string{doc(c.name, c.description)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(OfElsewhere(all, here)) == 1; got != c.elsewhere {
			t.Errorf("%s, %q: elsewhere %v, want %v", c.name, c.description, got, c.elsewhere)
		}
	}
}
