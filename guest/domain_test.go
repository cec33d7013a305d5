package guest

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }

// lockedDomain is newLocked for a throwaway domain.
func lockedDomain(t *testing.T) (*LockedDomain, *testdomain.Domain) {
	t.Helper()
	s, d := newLocked(t), testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20})
	conn, err := hypervisor.Connect(testdomain.URI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if s.Domain, err = Libvirt(conn).Domain(d.Name); err != nil {
		t.Fatal(err)
	}
	return s, d
}

// If the agent does not answer, the guest may still be frozen: the mark is removed only if
// the domain was started again since.
func TestThawWithoutAnAgent(t *testing.T) {
	t.Parallel()
	s, d := lockedDomain(t)
	testdomain.Virsh(t, "resume", d.Name)
	id, err := s.Domain.RunID()
	if err != nil {
		t.Fatal(err)
	}
	for run, stays := range map[uint]bool{id: true, 0: true, id + 1: false} {
		if err := s.setMark(markFrozen); err != nil {
			t.Fatal(err)
		}
		err := (&Session{d: s, frozen: &freeze{runID: run}}).tryThaw()
		_, left, markErr := s.Lock.Mark(markFrozen)
		var silent *SilentError
		if markErr != nil || left != stays || errors.As(err, &silent) != stays || err != nil && !stays {
			t.Errorf("run %d, marked in run %d: %v, the mark is there: %v", id, run, err, left)
		}
	}
}

// A freeze that was requested a moment ago may still be in progress, and the agent does not
// answer meanwhile: Thaw retries until the freeze must have ended.
func TestThawAwaitsAFreeze(t *testing.T) {
	t.Parallel()
	s, d := lockedDomain(t)
	testdomain.Virsh(t, "resume", d.Name)
	data, err := json.Marshal(mark{Since: time.Now().Add(1500*time.Millisecond - thawTime)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Lock.SetMark(markFrozen, data); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	left, err := s.FindLeftover(t.Context())
	if err != nil || !left.Frozen() {
		t.Fatal(left, err)
	}
	err = left.Thaw(t.Context())
	var silent *SilentError
	if took := time.Since(start); !errors.As(err, &silent) || took < time.Second || took > thawTime/2 {
		t.Errorf("%v after %v", err, took)
	}
}
