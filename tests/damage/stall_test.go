package damage

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// onImageRead calls do after each read of an image of the site's points, with the number of
// bytes.
func onImageRead(s *testsite.Site, do func(bytes int)) {
	s.T.Helper()
	read := func(path string, _ int64, p []byte) {
		if strings.HasPrefix(path, filepath.Join(s.Repo, s.Name, "check")) && strings.HasSuffix(path, ".qcow2") {
			do(len(p))
		}
	}
	directio.OnRead.Store(&read)
	s.T.Cleanup(func() { directio.OnRead.Store(nil) })
}

// Reading images of the base for longer than --stall-timeout is no stall, even if a damaged
// hash list, which is harmless, makes a run read a whole image.
func TestSlowReadsOfTheBaseAreNoStall(t *testing.T) {
	s := testsite.Filled(t)
	first := s.BackUp(0, "full").Point
	var reading sync.Mutex
	slowly := func(bytes int) { // 1 MiB in 80 ms over all readers
		reading.Lock()
		defer reading.Unlock()
		time.Sleep(time.Duration(bytes) * 80 * time.Millisecond >> 20)
	}
	run := func(name, kinds string) {
		t.Helper()
		onImageRead(s, slowly)
		defer directio.OnRead.Store(nil)
		result, err := backUpHere(s, t.Context(), backup.Request{Wanted: plan.Wanted{Kind: manifest.KindInc}, StallTimeout: 2 * time.Second})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		testsite.WantKinds(t, result.Point, kinds)
	}
	s.Crash(2)
	run("rescan", "vda rescan, vdb rescan")
	s.Crash(3)
	list := filepath.Join(s.Repo, s.Name, first.ID, "vda.hashes")
	testsite.Flip(t, list, 100)
	run("rescan, damaged list", "vda rescan, vdb rescan")
	s.WriteAll(4)
	testdomain.Virsh(t, "blockresize", s.Name, "vda", "20M")
	testdomain.Virsh(t, "blockresize", s.Name, "vda", "48M")
	run("tails, damaged list", "vda rescan, vdb inc")
	testsite.Flip(t, list, 100) // as it was
	s.Check()
}

// If the repository hangs while tails are compared, the stall timeout or a signal ends the
// job, although the read that hangs cannot be cancelled.
func TestRepositoryHangsInTails(t *testing.T) {
	stopped := errors.New("stopped by a signal")
	for name, c := range map[string]struct {
		request backup.Request
		stop    bool
		want    string
	}{
		"stall timeout": {backup.Request{StallTimeout: time.Second}, false, "has stalled: nothing was read or written for"},
		"signal":        {backup.Request{}, true, stopped.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			s := testsite.Filled(t)
			s.BackUp(0, "full")
			s.WriteAll(2)
			ctx, cancel := context.WithCancelCause(t.Context())
			hung, released := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(released) })
			defer release()
			hang := sync.OnceFunc(func() {
				if close(hung); c.stop {
					cancel(stopped)
				}
				time.AfterFunc(time.Minute, release) // a run that waited for it would fail the test
				<-released
			})
			onImageRead(s, func(int) { hang() })
			c.request.Kind = manifest.KindInc
			_, err := backUpHere(s, ctx, c.request)
			select {
			case <-hung:
			default:
				t.Fatalf("no image was read: %v", err)
			}
			if !errors.Is(err, backup.ErrStuck) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it stuck, and %q", err, c.want)
			}
			if s.HasJob() || len(s.Checkpoints()) != 1 {
				t.Errorf("job %v, checkpoints %v: something is left", s.HasJob(), s.Checkpoints())
			}
		})
	}
}
