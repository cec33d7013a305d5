package terminal

import (
	"bytes"
	"testing"
)

func TestGrid(t *testing.T) {
	g := &Grid{Columns: []Column{{Name: "POINT"}, {Name: "EMPTY"}, {Name: "SIZE", Right: true, Spare: 1}, {Name: "TIME", Spare: 2}, {Name: "NOTE", Note: true}}}
	g.Add("check1", "", "1.0 MiB", "02:00", "")
	g.Add("check10", "", "10.0 MiB", "03:00", "a note that goes on and on")
	for width, want := range map[int]string{
		0: `
  POINT        SIZE  TIME   NOTE
  check1    1.0 MiB  02:00
  check10  10.0 MiB  03:00  a note that goes on and on`,
		52: `
  POINT        SIZE  TIME   NOTE
  check1    1.0 MiB  02:00
  check10  10.0 MiB  03:00  a note that goes on and…`,
		44: `
  POINT        SIZE  TIME   NOTE
  check1    1.0 MiB  02:00
  check10  10.0 MiB  03:00  a note that goe…`,
		43: `
  POINT        SIZE  NOTE
  check1    1.0 MiB
  check10  10.0 MiB  a note that goes on a…`,
		30: `
  POINT    NOTE
  check1
  check10  a note that goes o…`,
	} {
		var b bytes.Buffer
		if err := g.Print(&Screen{w: &b, width: width}, "  "); err != nil || "\n"+b.String() != want+"\n" {
			t.Errorf("%d columns: %v\n%s", width, err, b.String())
		}
	}
	var b bytes.Buffer
	if err := (&Grid{Columns: g.Columns}).Print(&b, ""); err != nil || b.Len() > 0 {
		t.Errorf("without rows: %v %q", err, b.String())
	}
}
