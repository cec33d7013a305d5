package guest

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A real guest writes all the time: what was written before a point is in it, what was
// written after is not, its file system is sound, and the guest goes on whether the run
// succeeds or not.
func TestGuest(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 192 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteForever()
	for _, c := range []struct{ kind, quiesce, want string }{
		{"full", "require", manifest.ConsistencyFilesystem},
		{"inc", "no", manifest.ConsistencyCrash},
		{"inc", "try", manifest.ConsistencyFilesystem},
		{"diff", "require", manifest.ConsistencyFilesystem},
	} {
		guestPoint(s, c.kind, c.quiesce, c.want)
	}
	for i, p := range s.Points {
		checkGuestPoint(s, i, p)
	}
	t.Run("no job", func(t *testing.T) { failFrozen(t, s) })
	t.Run("hanging agent", func(t *testing.T) { hangAgent(t, s) })
	t.Run("slow freeze", func(t *testing.T) { freezeSlowly(t, s) })
}

// file names the file that is written before the point i.
func file(i int) string { return fmt.Sprintf("/before-%d", i) }

// guestPoint writes a file and makes a point of the guest as it runs.
func guestPoint(s *testsite.Site, kind, quiesce, want string) {
	s.T.Helper()
	s.WriteFile("/mnt"+file(len(s.Points)), []byte(kind))
	r := s.Program.Must(s.T, nil, "--json", kind, s.Name, "--quiesce", quiesce)
	if got := s.Add(r, nil).Point.Consistency; got != want {
		s.T.Errorf("a %s with --quiesce %s is %s consistent, want %s", kind, quiesce, got, want)
	}
	s.WantThawed(s.T)
}

func checkGuestPoint(s *testsite.Site, i int, p testsite.Point) {
	s.T.Helper()
	raw := filepath.Join(s.Restore(p, "raw"), "vda.raw")
	testdomain.CheckImage(s.T, s.Image(p.Manifest, "vda"))
	if p.Consistency == manifest.ConsistencyFilesystem && testdomain.NeedsReplay(s.T, raw) {
		s.T.Errorf("%s has a journal to replay", p.ID)
	}
	testdomain.Fsck(s.T, raw)
	for j, other := range s.Points {
		got := testdomain.GuestFile(s.T, raw, file(j))
		if want := []byte(other.Kind); j <= i && !bytes.Equal(got, want) {
			s.T.Errorf("%s of %s holds %q, want %q", file(j), p.ID, got, want)
		} else if j > i && len(got) > 0 {
			s.T.Errorf("%s, written after %s, is in it: %q", file(j), p.ID, got)
		}
	}
}

// failFrozen fails a run when the guest is frozen already.
func failFrozen(t *testing.T, s *testsite.Site) {
	s.Refused(1, "", "inc", s.Name, "--quiesce", "require", "--socket-dir", "/proc/self")
	s.WantThawed(t)
}

// hangAgent stops the guest agent: --quiesce try goes on without it in bounded time, require
// fails.
func hangAgent(t *testing.T, s *testsite.Site) {
	// The first byte of vdb says when it stops, so that it answers until then, and when it goes on: no
	// agent listens then.
	s.Exec(`setsid sh -c 'until_byte() { until [ "$(dd if=/dev/vdb bs=1 count=1)" = $1 ]; do sleep 1; echo 3 >/proc/sys/vm/drop_caches; done; }; ` +
		`until_byte S; kill -STOP $(pidof qemu-ga); until_byte G; kill -CONT $(pidof qemu-ga)' >/dev/null 2>&1 </dev/null &`)
	s.IO("vdb", "write -P 0x53 0 512")
	testsite.Await(t, "hanging agent", 0, func() bool {
		_, err := testdomain.TryVirsh(t, "qemu-agent-command", s.Name, `{"execute":"guest-ping"}`, "--timeout", "1")
		return err != nil
	})
	s.Refused(1, "--quiesce require", "inc", s.Name, "--quiesce", "require", "--agent-timeout", "2s")
	start := time.Now()
	r := s.Program.Must(t, nil, "--json", "inc", s.Name, "--agent-timeout", "2s")
	point := s.Add(r, nil).Point
	if took := point.Time.Sub(start); took > 20*time.Second {
		t.Errorf("it took %s to the instant of the point", took)
	}
	if point.Consistency != manifest.ConsistencyCrash {
		t.Errorf("the point is %s consistent", point.Consistency)
	}
	s.IO("vdb", "write -P 0x47 0 512")
	s.AwaitGuest()
	s.WantThawed(t)
}

// freezeSlowly makes the freeze take longer than virtbackup waits: the guest freezes later,
// and must not stay frozen.
func freezeSlowly(t *testing.T, s *testsite.Site) {
	s.Exec("pkill -f mnt/busy; sync")
	testdomain.Virsh(t, "blkdeviotune", s.Name, "vda", "--write-bytes-sec", "1000000", "--live")
	const dirty = "dd if=/dev/zero of=/mnt/dirty bs=1M count=7 2>/dev/null"
	s.Exec(dirty)
	s.Refused(1, "may still freeze", "inc", s.Name, "--quiesce", "require", "--agent-timeout", "2s")
	s.WantThawed(t)
	s.Exec(dirty)
	r := s.Program.Must(t, nil, "--json", "inc", s.Name, "--agent-timeout", "2s")
	if got := s.Add(r, nil).Point.Consistency; got != manifest.ConsistencyCrash {
		t.Errorf("the point is %s consistent", got)
	}
	s.WantThawed(t)
}

// Without an agent --quiesce require fails and changes nothing; try goes on.
func TestNoAgent(t *testing.T) {
	t.Parallel()
	d := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20})
	s := testsite.New(t, d)
	s.BackUp(0, "full")
	s.Refused(1, "--quiesce require", "inc", s.Name, "--quiesce", "require")
	testdomain.Virsh(t, "resume", s.Name)
	s.Refused(1, "--quiesce require", "inc", s.Name, "--quiesce", "require")
	if got := s.BackUp(0, "inc"); got.Point.Consistency != manifest.ConsistencyCrash {
		t.Errorf("the point is %s consistent", got.Point.Consistency)
	}
	s.BackUp(0, "inc", "--quiesce", "no")
	s.Check()
}

// A panic while the guest is frozen, or while a job protects it, leaves it thawed and
// running.
func TestPanicWhileFrozen(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	guestPoint(s, "full", "require", "filesystem")
	for _, point := range []string{"step freeze after", "step begin before", "step begin after", "step thaw before", "reply"} {
		before := s.Labels()
		s.Panicking(point, "inc", s.Name, "--quiesce", "require")
		s.WantThawed(t)
		if got := s.Labels(); s.HasJob() || !slices.Equal(got, before) {
			t.Errorf("panic at %q: job %v, checkpoints %v, want %v", point, s.HasJob(), got, before)
		}
		s.NoPartial()
	}
	guestPoint(s, "inc", "require", "filesystem")
	for i, p := range s.Points {
		checkGuestPoint(s, i, p)
	}
}
