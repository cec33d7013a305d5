package tests

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// A real guest that writes all the time: what was written before a point is in
// it, what was written after is not, its file system is whole, and the guest
// goes on whatever becomes of the run.
func TestGuest(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 192 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteForever()
	for _, c := range []struct{ kind, quiesce, want string }{
		{"full", "require", repository.ConsistencyFilesystem},
		{"inc", "no", repository.ConsistencyCrash},
		{"inc", "try", repository.ConsistencyFilesystem},
		{"diff", "require", repository.ConsistencyFilesystem},
	} {
		s.guestPoint(c.kind, c.quiesce, c.want)
	}
	for i, p := range s.points {
		s.checkGuestPoint(i, p)
	}
	t.Run("no job", func(t *testing.T) { failFrozen(t, s) })
	t.Run("hanging agent", func(t *testing.T) { hangAgent(t, s) })
	t.Run("slow freeze", func(t *testing.T) { freezeSlowly(t, s) })
}

// file names the file that is written before the point i.
func file(i int) string { return fmt.Sprintf("/before-%d", i) }

// guestPoint writes a file and makes a point of the guest as it runs.
func (s *site) guestPoint(kind, quiesce, want string) {
	s.t.Helper()
	s.WriteFile("/mnt"+file(len(s.points)), []byte(kind))
	r := s.program.Must(s.t, nil, "--json", kind, s.Name, "--quiesce", quiesce)
	if got := s.add(r, nil).Point.Consistency; got != want {
		s.t.Errorf("a %s with --quiesce %s is %s consistent, want %s", kind, quiesce, got, want)
	}
	s.wantThawed(s.t)
}

// wantThawed sees that the guest can write.
func (s *site) wantThawed(t *testing.T) {
	t.Helper()
	status, err := testdomain.TryVirsh(t, "qemu-agent-command", s.Name, `{"execute":"guest-fsfreeze-status"}`, "--timeout", "20")
	if err != nil || !strings.Contains(status, "thawed") {
		t.Fatalf("the guest's file systems are %s (%v)", status, err)
	}
	// libvirt's default (VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK): other tools' calls may take long.
	if state := testdomain.Tool(t, "cat", "/run/libvirt/qemu/"+s.Name+".xml"); !strings.Contains(state, "<agentTimeout>-2</agentTimeout>") {
		t.Error("the agent's response timeout is not libvirt's default again")
	}
	s.WriteFile("/mnt/alive", []byte("yes")) // with sync: it would hang
	if got := s.State(); got != "running" {
		t.Fatalf("the guest is %s", got)
	}
}

func (s *site) checkGuestPoint(i int, p truePoint) {
	s.t.Helper()
	raw := filepath.Join(s.restore(p, "raw"), "vda.raw")
	testdomain.CheckImage(s.t, s.image(p.Manifest, "vda"))
	if p.Consistency == repository.ConsistencyFilesystem && testdomain.NeedsReplay(s.t, raw) {
		s.t.Errorf("%s has a journal to replay", p.ID)
	}
	testdomain.Fsck(s.t, raw)
	for j, other := range s.points {
		got := testdomain.GuestFile(s.t, raw, file(j))
		if want := []byte(other.Kind); j <= i && !bytes.Equal(got, want) {
			s.t.Errorf("%s of %s holds %q, want %q", file(j), p.ID, got, want)
		} else if j > i && len(got) > 0 {
			s.t.Errorf("%s, written after %s, is in it: %q", file(j), p.ID, got)
		}
	}
}

// failFrozen fails a run when the guest is frozen already.
func failFrozen(t *testing.T, s *site) {
	s.refused(1, "", "inc", s.Name, "--quiesce", "require", "--socket-dir", "/proc/self")
	s.wantThawed(t)
}

// hangAgent stops the guest agent: a try goes on without it in bounded time, a
// require fails.
func hangAgent(t *testing.T, s *site) {
	// It goes on when the first byte of vdb says so: nobody else listens now.
	s.Exec(`setsid sh -c 'sleep 1; kill -STOP $(pidof qemu-ga); ` +
		`until [ "$(dd if=/dev/vdb bs=1 count=1)" = G ]; do sleep 1; echo 3 >/proc/sys/vm/drop_caches; done; ` +
		`kill -CONT $(pidof qemu-ga)' >/dev/null 2>&1 </dev/null &`)
	await(t, "hanging agent", 0, func() bool {
		_, err := testdomain.TryVirsh(t, "qemu-agent-command", s.Name, `{"execute":"guest-ping"}`, "--timeout", "1")
		return err != nil
	})
	s.refused(1, "--quiesce require", "inc", s.Name, "--quiesce", "require", "--agent-timeout", "2s")
	start := time.Now()
	r := s.program.Must(t, nil, "--json", "inc", s.Name, "--agent-timeout", "2s")
	point := s.add(r, nil).Point
	if took := point.Time.Sub(start); took > 20*time.Second {
		t.Errorf("it took %s to the instant of the point", took)
	}
	if point.Consistency != repository.ConsistencyCrash {
		t.Errorf("the point is %s consistent", point.Consistency)
	}
	s.IO("vdb", "write -P 0x47 0 512")
	s.AwaitGuest()
	s.wantThawed(t)
}

// freezeSlowly lets the freeze take longer than virtbackup waits for it: the
// guest freezes all the same, and must not stay so.
func freezeSlowly(t *testing.T, s *site) {
	s.Exec("pkill -f mnt/busy; sync")
	testdomain.Virsh(t, "blkdeviotune", s.Name, "vda", "--write-bytes-sec", "1000000", "--live")
	const dirty = "dd if=/dev/zero of=/mnt/dirty bs=1M count=7 2>/dev/null"
	s.Exec(dirty)
	s.refused(1, "may still freeze", "inc", s.Name, "--quiesce", "require", "--agent-timeout", "2s")
	s.wantThawed(t)
	s.Exec(dirty)
	r := s.program.Must(t, nil, "--json", "inc", s.Name, "--agent-timeout", "2s")
	if got := s.add(r, nil).Point.Consistency; got != repository.ConsistencyCrash {
		t.Errorf("the point is %s consistent", got)
	}
	s.wantThawed(t)
}

// Without an agent --quiesce require fails and leaves everything as it was; a
// try goes on.
func TestNoAgent(t *testing.T) {
	t.Parallel()
	d := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20})
	s := newSite(t, d)
	s.backUp(0, "full")
	s.refused(1, "--quiesce require", "inc", s.Name, "--quiesce", "require")
	testdomain.Virsh(t, "resume", s.Name)
	s.refused(1, "--quiesce require", "inc", s.Name, "--quiesce", "require")
	if got := s.backUp(0, "inc"); got.Point.Consistency != repository.ConsistencyCrash {
		t.Errorf("the point is %s consistent", got.Point.Consistency)
	}
	s.backUp(0, "inc", "--quiesce", "no")
	s.check()
}
