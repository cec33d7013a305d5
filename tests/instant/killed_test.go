package instant

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// Killed at any of its steps, an instant restore can be gone on with, given up, or cleaned up: in the end
// the domain stands alone and shows the point, or nothing is left.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(testsite.NewSeed(t), 1))
	r := newRestored(t, newSite(t))
	points := r.points()
	for _, want := range []string{"instant: pinned#1", "instant: start server#1", "define: domain defined#1", "instant: pull#1", "instant: all pulled#1", "instant: unpin#1", "instant: unpinned#1"} {
		if !slices.Contains(points, want) {
			t.Fatalf("no point %q in %q", want, points)
		}
	}
	for _, point := range points {
		own := strings.HasPrefix(point, "instant:")
		if !own && !testsite.AllFaults() && random.IntN(8) > 0 {
			continue
		}
		killed := r.faulty("VIRTBACKUP_FAULT="+point+":kill").Run(t, r.begin()...)
		if killed.Code != 137 {
			t.Fatalf("%s: exit %d", point, killed.Code)
		}
		switch random.IntN(3) {
		case 0:
			r.goOn(point)
		case 1:
			r.giveUp(point)
		default:
			r.cleanUp(point)
		}
		r.remove()
	}
}

// points are those of an undisturbed restore, of the process that was started.
func (r *restored) points() []string {
	r.T.Helper()
	trace := filepath.Join(testdomain.TempDir(r.T), "trace")
	r.faulty("VIRTBACKUP_FAULT_TRACE="+trace).Must(r.T, nil, r.begin()...)
	text, err := os.ReadFile(trace)
	if err != nil {
		r.T.Fatal(err)
	}
	r.wantNothingLeft("")
	r.wantAlone()
	r.remove()
	var points []string
	for _, p := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if strings.HasPrefix(p, "instant:") || strings.HasPrefix(p, "define:") || strings.HasPrefix(p, "restore:") {
			points = append(points, p)
		}
	}
	return points
}

// remove removes the domain that stands alone.
func (r *restored) remove() {
	testdomain.TryVirsh(r.T, "destroy", r.Domain.Name)
	testdomain.TryVirsh(r.T, "undefine", r.Domain.Name)
	os.RemoveAll(r.dir)
}

// goOn has --resume bring the domain to its end, or the command begun again where nothing was
// written down yet.
func (r *restored) goOn(point string) {
	r.T.Helper()
	switch code := r.Program.Run(r.T, r.resume()...).Code; {
	case code == 6 && !r.gone(): // all was done
	case code == 6:
		r.Program.Must(r.T, nil, r.begin()...)
	case code != 0:
		r.T.Errorf("killed at %s: --resume ends with %d", point, code)
	}
	r.wantNothingLeft("")
	r.wantAlone()
}

// giveUp has --abandon remove everything, where it is not done.
func (r *restored) giveUp(point string) {
	r.T.Helper()
	given := r.Program.Run(r.T, "restore", r.Site.Name, "--to", r.dir, "--abandon", "--yes")
	switch code := given.Code; {
	case code == 6 && !r.gone(): // all was done
		r.wantAlone()
	case code == 1 && strings.Contains(given.Stderr, "stands alone"): // all but the end
		r.cleanUp(point)
		r.wantAlone()
	case code == 0 && r.gone(), code == 6:
	default:
		r.T.Errorf("killed at %s: --abandon ends with %d, domain gone: %v", point, code, r.gone())
	}
	r.wantNothingLeft("")
	if _, err := os.Lstat(r.dir); err == nil && r.gone() {
		r.T.Errorf("killed at %s: the directory is left", point)
	}
}

// cleanUp has recover do what needs no person.
func (r *restored) cleanUp(point string) {
	r.T.Helper()
	report := r.Program.Run(r.T, "recover", r.Site.Name)
	if report.Code == 3 { // it runs from the point
		if !strings.Contains(report.Stdout+report.Stderr, "--resume goes on") {
			r.T.Errorf("killed at %s: recover says %s", point, report.Stdout)
		}
		r.goOn(point)
		return
	}
	if report.Code != 0 {
		r.T.Errorf("killed at %s: recover ends with %d", point, report.Code)
	}
	r.wantNothingLeft("")
	if _, err := os.Lstat(r.dir); err == nil && r.gone() {
		r.T.Errorf("killed at %s: the directory is left", point)
	}
}

// One that fails, is ended by a signal or panics before the domain runs leaves nothing.
func TestFailsBeforeItRuns(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	for point, code := range map[string]int{"instant: pinned#1": 1, "instant: start server#1": 70, "define: domain defined#1": 143, "define: start#1": 1} {
		way := map[int]string{1: "error", 70: "panic", 143: "term"}[code]
		if got := r.faulty("VIRTBACKUP_FAULT="+point+":"+way).Run(t, r.begin()...).Code; got != code {
			t.Errorf("%s at %s: exit %d", way, point, got)
		}
		r.wantNothingLeft("")
		if _, err := os.Lstat(r.dir); err == nil || !r.gone() {
			t.Errorf("%s at %s: directory left %v, domain left %v", way, point, err == nil, !r.gone())
		}
	}
}

// QEMU that is killed when all is pulled, as by a power cut, has written the header without a backing
// file before the tables of what it pulled: nothing is given up before those are on the disk, and what is
// missing is pulled again.
func TestKilledWhenPulled(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	for point, again := range map[string]bool{"instant: flush#1": true, "instant: flush#2": true, "instant: all pulled#1": false} {
		if code := r.faulty("VIRTBACKUP_FAULT="+point+":kill").Run(t, r.begin()...).Code; code != 137 {
			t.Fatalf("%s: exit %d", point, code)
		}
		r.Domain.Kill()
		if again {
			r.Recovered(3) // it does not stand alone
		}
		ended := r.Program.Must(t, nil, r.resume()...)
		if got := strings.Contains(ended.Stderr, "is pulled again"); got != again {
			t.Errorf("%s: pulled again: %v, want %v", point, got, again)
		}
		r.Domain.Kill()
		r.wantNothingLeft("")
		r.wantAlone()
		r.remove()
	}
}
