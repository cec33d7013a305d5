package bench

import (
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// inPlaceStage is the disk of (a), of a domain that is shut off, with one point and a valid
// bitmap since. The point is at the place, too, as it is what is read.
func inPlaceStage(t *testing.T, s settings, p place) *stage {
	t.Helper()
	st := filled(random)(t, s, p)
	st.base = filepath.Join(p.dir(t), "repo")
	st.sources = append(st.sources, st.base)
	ourBase(st)
	testdomain.Virsh(t, "destroy", st.Name, "--graceful") // QEMU writes the bitmap
	return st
}

// inPlace changes 1 % of the disk, and puts it back.
func (s *stage) inPlace() contestant {
	c := changes{s.size, 80, mib / s.shrink}
	pattern := filepath.Join(s.qemu, "pattern")
	writePattern(s.t, pattern, c.length)
	then := filepath.Join(s.targets, "then.raw")
	testdomain.Flatten(s.t, s.truth, then)
	return contestant{
		before: func(*turn) { runScript(s.t, s.truth, c.commands(pattern)) },
		work: func(r *turn) {
			s.virtbackup(r, s.base, "restore", "--at", "check1", "--in-place", "--yes", "--no-save")
		},
		after: func(*turn) { testdomain.Same(s.t, s.truth, "qcow2", then) },
	}
}
