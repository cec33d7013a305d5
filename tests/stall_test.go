package tests

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// onImageRead calls do with how many bytes of an image of the site's points were read.
func (s *site) onImageRead(do func(bytes int)) {
	s.t.Helper()
	read := func(path string, _ int64, p []byte) {
		if strings.HasPrefix(path, filepath.Join(s.repo, s.Name, "check")) && strings.HasSuffix(path, ".qcow2") {
			do(len(p))
		}
	}
	directio.OnRead.Store(&read)
	s.t.Cleanup(func() { directio.OnRead.Store(nil) })
}

// Images of the base that take longer to read than --stall-timeout are no stall, also
// where a damaged hash list, which is harmless, makes a run read a whole image.
func TestSlowReadsOfTheBaseAreNoStall(t *testing.T) {
	s := filled(t)
	first := s.backUp(0, "full").Point
	var reading sync.Mutex
	slowly := func(bytes int) { // 1 MiB in 80 ms, whoever reads beside
		reading.Lock()
		defer reading.Unlock()
		time.Sleep(time.Duration(bytes) * 80 * time.Millisecond >> 20)
	}
	run := func(name, kinds string) {
		t.Helper()
		s.onImageRead(slowly)
		defer directio.OnRead.Store(nil)
		result, err := s.backUpHere(t.Context(), backup.Request{Kind: manifest.KindInc, StallTimeout: 2 * time.Second})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantKinds(t, result.Point, kinds)
	}
	s.crash(2)
	run("rescan", "vda rescan, vdb rescan")
	s.crash(3)
	list := filepath.Join(s.repo, s.Name, first.ID, "vda.hashes")
	flip(t, list, 100)
	run("rescan, damaged list", "vda rescan, vdb rescan")
	s.writeAll(4)
	testdomain.Virsh(t, "blockresize", s.Name, "vda", "20M")
	testdomain.Virsh(t, "blockresize", s.Name, "vda", "48M")
	run("tails, damaged list", "vda rescan, vdb inc")
	flip(t, list, 100) // as it was
	s.check()
}

// A repository that hangs while the tails are looked at: the job ends, by the stall
// timeout or by a signal, although the read that hangs cannot be cancelled.
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
			s := filled(t)
			s.backUp(0, "full")
			s.writeAll(2)
			ctx, cancel := context.WithCancelCause(t.Context())
			hung, released := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(released) })
			defer release()
			hang := sync.OnceFunc(func() {
				if close(hung); c.stop {
					cancel(stopped)
				}
				time.AfterFunc(time.Minute, release) // a run that waits for it fails the test
				<-released
			})
			s.onImageRead(func(int) { hang() })
			c.request.Kind = manifest.KindInc
			_, err := s.backUpHere(ctx, c.request)
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
