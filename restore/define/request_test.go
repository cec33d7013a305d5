package define

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/needs"
)

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{"": true, "vm2": true, "vm 2.x_y-ä": true, "vm1": false, "a/b": false, "..": false, ".": false, " a": false, "a ": false, "a\nb": false, "\xff": false, " ": false} {
		err := Request{Request: restore.Request{Domain: "vm1", Dir: "/x"}, Name: name}.validate()
		if (err == nil) != good || err != nil && (!fail.Is(err, fail.Usage) || fail.HintOf(err) == "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// One lack is said with its hint, several as a list.
func TestLackError(t *testing.T) {
	one := &LackError{"vm1", []needs.Lack{{What: "no bridge", Hint: "make one"}}}
	if one.Error() != "domain vm1 cannot be defined here: no bridge" || one.Hint() != "make one" {
		t.Errorf("%s / %s", one, one.Hint())
	}
	two := &LackError{"vm1", []needs.Lack{{What: "no bridge", Hint: "make one"}, {What: "no pool"}}}
	if want := "domain vm1 cannot be defined here, for 2 reasons:\n  - no bridge (make one)\n  - no pool"; two.Error() != want || !strings.Contains(two.Hint(), "nothing was written") {
		t.Errorf("%s / %s", two, two.Hint())
	}
}

// XML of another domain, or with a UUID that leads elsewhere, is not defined.
func TestSameDomain(t *testing.T) {
	for _, test := range []struct {
		name, uuid string
		good       bool
	}{
		{"", uuidOfPoint, true}, {"", "99999999-2222-4333-8444-555555555555", false},
		{"new", "99999999-2222-4333-8444-555555555555", true}, {"new", "../../../etc", false}, {"", "", false},
	} {
		d := newDefiner(t, nil)
		d.Name, d.adapted.UUID = test.name, test.uuid
		if err := d.sameDomain(); (err == nil) != test.good || err != nil && !fail.Is(err, fail.Damaged) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
