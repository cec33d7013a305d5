package hypervisor

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestProveBackup: ProveBackup succeeds for a disk in the job, and fails for a disk that is not in it and for one of a job
// that has ended.
func TestProveBackup(t *testing.T) {
	g := newGuest(t)
	if err := g.begin(t, g.job("vda", "vdb")); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"vda", "vdb", "vda"} {
		must(t, g.ProveBackup(target))
	}
	wantErr(t, "a disk that the job leaves out", g.ProveBackup("vdc"), ErrNoJob, "disk vdc")
	g.end(t)
	wantErr(t, "no job", g.ProveBackup("vda"), ErrNoJob, "disk vda")
	virsh(t, "destroy", g.Name())
	wantErr(t, "no domain", g.ProveBackup("vda"), ErrNoJob, "not running")
}

// TestProveBackupWhileItEnds: while another client ends the job, every successful ProveBackup was called before QEMU had ended
// it, by QEMU's own clock. With BackupJob in place of ProveBackup each round fails.
func TestProveBackupWhileItEnds(t *testing.T) {
	g := newGuest(t)
	domain, err := connect(t).Domain(g.Name())
	must(t, err)
	for range 5 {
		concluded := g.concluded(t)
		if err := g.begin(t, g.job("vda", "vdb")); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- domain.EndBackup(t.Context()) }()
		var last time.Time
		for start := time.Now(); ; start = time.Now() {
			if g.ProveBackup("vda") != nil {
				break
			}
			last = start
		}
		must(t, <-ended)
		// The event has whole milliseconds.
		if end := <-concluded; last.After(end.Add(time.Millisecond)) {
			t.Errorf("proven from %v on, and QEMU had ended the job at %v", last.UTC(), end)
		}
	}
}

// concluded yields the time at which QEMU ends the backup job of vda.
func (g guest) concluded(t *testing.T) <-chan time.Time {
	t.Helper()
	cmd := exec.Command("virsh", "-q", "-c", "qemu:///system", "qemu-monitor-event", g.Name(), "--event", "JOB_STATUS_CHANGE", "--loop", "--timestamp")
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
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	time.Sleep(300 * time.Millisecond) // until virsh listens for events
	return found
}
