package hypervisor

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// ways are what ProveBackup chooses from: what suits this daemon, and what suits all.
func (g guest) ways() map[string]func(targets []string) error {
	return map[string]func([]string) error{"chosen": g.ProveBackup, "statistics": g.proveByStats}
}

// TestProveBackup: ProveBackup succeeds for the disks of the job, and fails for a disk that is not in it and for those of a
// job that has ended.
func TestProveBackup(t *testing.T) {
	g := newGuest(t)
	if err := g.begin(t, g.job("vda", "vdb")); err != nil {
		t.Fatal(err)
	}
	for way, prove := range g.ways() {
		for range 2 {
			if err := prove([]string{"vda", "vdb"}); err != nil {
				t.Errorf("%s: %v", way, err)
			}
		}
		wantErr(t, way+": a disk that the job leaves out", prove([]string{"vda", "vdb", "vdc"}), ErrNoJob, "prove that")
	}
	g.end(t)
	for way, prove := range g.ways() {
		wantErr(t, way+": no job", prove([]string{"vda", "vdb"}), ErrNoJob, "prove that")
	}
	virsh(t, "destroy", g.Name())
	for way, prove := range g.ways() {
		wantErr(t, way+": no domain", prove([]string{"vda", "vdb"}), ErrNoJob, "not running")
	}
}

// TestProveBackupWhileItEnds: while another client ends the job, every successful ProveBackup was called before QEMU had ended
// it, by QEMU's own clock. With BackupJob in place of ProveBackup each round fails.
func TestProveBackupWhileItEnds(t *testing.T) {
	g := newGuest(t)
	domain, err := connect(t).Domain(g.Name())
	must(t, err)
	for way, prove := range g.ways() {
		g.wantProvenBeforeTheEnd(t, domain, way, prove)
	}
}

func (g guest) wantProvenBeforeTheEnd(t *testing.T, domain *Domain, way string, prove func([]string) error) {
	t.Helper()
	judged := 0
	for range 20 {
		if judged == 5 {
			return
		}
		concluded := g.concluded(t)
		if err := g.begin(t, g.job("vda", "vdb")); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- domain.EndBackup(t.Context()) }()
		var last time.Time
		for start := time.Now(); ; start = time.Now() {
			if prove([]string{"vda", "vdb"}) != nil {
				break
			}
			last = start
		}
		must(t, <-ended)
		end, heard := <-concluded
		if !heard {
			continue // virsh did not listen yet
		}
		judged++
		// The event has whole milliseconds.
		if last.After(end.Add(time.Millisecond)) {
			t.Errorf("%s: proven from %v on, and QEMU had ended the job at %v", way, last.UTC(), end)
		}
	}
	t.Errorf("%s: the end of %d jobs of 20 was heard of", way, judged)
}

// concluded yields the time at which QEMU ends the backup job of vda, or is closed if virsh has
// not heard of it for ten seconds.
func (g guest) concluded(t *testing.T) <-chan time.Time {
	t.Helper()
	cmd := exec.Command("virsh", "-q", "-c", "qemu:///system", "qemu-monitor-event", g.Name(), "--event", "JOB_STATUS_CHANGE", "--loop", "--timestamp", "--timeout", "10")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	found := make(chan time.Time, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			stamp, event, _ := strings.Cut(lines.Text(), ": ")
			if at, err := time.Parse("2006-01-02 15:04:05.000-0700", stamp); err == nil &&
				strings.Contains(event, `"concluded"`) && strings.Contains(event, "backup-vda") {
				found <- at
				break
			}
		}
		close(found)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	time.Sleep(300 * time.Millisecond) // until virsh listens for events
	return found
}
