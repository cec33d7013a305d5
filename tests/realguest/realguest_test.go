//go:build realguest

package realguest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// work is what goes on in the guest while points are made (scripts/realguest.sh).
const work = "ledger load files"

// step makes a point of the guest.
type step struct {
	kind, quiesce string
	// meanwhile is a command of the user postgres that begins just before the run.
	meanwhile string
	// off: the guest is shut down before the run, and booted after it.
	off bool
}

// Points with and without a freeze, while PostgreSQL writes a checkpoint, or indexes and tables
// anew, and of a guest that is off.
var steps = []step{
	{kind: "full", quiesce: "require", meanwhile: "reindexdb bank"},
	{kind: "inc", quiesce: "no", meanwhile: "psql bank -c 'VACUUM FULL pgbench_accounts' -c CHECKPOINT"},
	{kind: "inc", quiesce: "try", off: true},
	{kind: "diff", quiesce: "no", meanwhile: "psql bank -c CHECKPOINT"},
}

// made is a point, and the rows that its ledger may end with.
type made struct {
	testsite.Point
	first int // was committed before the run
	last  int // was the newest one when the run had ended
	off   bool
}

// Every point of a guest that works all the time is a system that boots, and whose database
// recovers with every transaction that was committed before the point, and with none that
// was committed after the run.
func TestRealGuest(t *testing.T) {
	if err := os.RemoveAll(keptDir(t)); err != nil {
		t.Fatal(err)
	}
	s := testsite.New(t, testdomain.DefineRealGuest(t))
	t.Cleanup(func() { keepSerial(t, "guest", filepath.Join(s.Dir, "serial.log")) })
	s.Boot()
	l := newLedger()
	startWork(s, l)
	var points []made
	for _, step := range steps {
		points = append(points, makePoint(s, l, step))
	}
	s.Exec("systemctl stop " + work)
	l.catchUp(t, ledgerRows(t, s.Domain))
	// It stays beside the others, but takes no time from them.
	testdomain.Virsh(t, "suspend", s.Name)
	for _, p := range points {
		t.Run(fmt.Sprintf("%s %s", p.Kind, p.ID), func(t *testing.T) {
			t.Parallel()
			examine(t, s, l, p)
		})
	}
}

// startWork begins the work of a guest that was booted.
func startWork(s *testsite.Site, l *ledger) {
	s.T.Helper()
	l.catchUp(s.T, ledgerRows(s.T, s.Domain))
	l.listen(s.T, s.Domain)
	s.Exec("systemctl start " + work)
}

// makePoint makes a point once the ledger has grown.
func makePoint(s *testsite.Site, l *ledger, step step) made {
	s.T.Helper()
	enough := l.newest() + 50
	testsite.Await(s.T, fmt.Sprintf("row %d", enough), 100*time.Millisecond, func() bool { return l.newest() >= enough })
	if step.meanwhile != "" {
		s.Exec("systemd-run --quiet --uid=postgres " + step.meanwhile)
	}
	if step.off {
		s.PowerOff()
		<-l.heard
	}
	p := made{first: l.newest(), off: step.off}
	s.Add(s.Program.Must(s.T, nil, "--json", step.kind, s.Name, "--quiesce", step.quiesce), nil)
	p.Point = s.Points[len(s.Points)-1]
	if step.off {
		s.Boot()
	}
	p.last = newestRow(s.T, s.Domain)
	if step.off {
		startWork(s, l)
	}
	wantConsistency(s.T, p, step)
	return p
}

// wantConsistency checks what the point says of its file systems.
func wantConsistency(t *testing.T, p made, step step) {
	t.Helper()
	want := manifest.ConsistencyCrash
	if step.quiesce == "require" || step.off {
		want = manifest.ConsistencyFilesystem
	}
	if p.Consistency != want {
		t.Errorf("%s with --quiesce %s is %s consistent, want %s", p.ID, step.quiesce, p.Consistency, want)
	}
}
