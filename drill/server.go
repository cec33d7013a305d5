package drill

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/serve"
)

// errDone ends a server that nobody needs any more.
var errDone = errors.New("the drill is over")

// server shows the point's disks to QEMU. It holds the lock for readers: no point of the domain is
// replaced or deleted meanwhile.
type server struct {
	cancel context.CancelCauseFunc
	ended  chan error // has its error once it has ended
	found  found
}

// startServer returns once QEMU can connect.
func (d *drill) startServer(ctx context.Context) (*server, error) {
	if err := fault.Point("drill: start server"); err != nil {
		return nil, err
	}
	// Not cancelled with ctx: the domain reads from it until it is gone.
	serving, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &server{cancel: cancel, ended: make(chan error, 1)}
	ready := make(chan struct{})
	request := serve.Request{Domain: d.point.Domain, At: d.point.ID, Disks: d.machine.Targets, ForQEMU: true,
		Socket: filepath.Join(d.running.Dir(), serverName), Log: d.Log, Failed: s.found.add}
	panics.Go(func() error {
		s.ended <- panics.Catch(func() error {
			return serve.Run(serving, d.repo, request, func(serve.Served) error { close(ready); return nil })
		})
		return nil
	})
	select {
	case <-ready:
		return s, nil
	case err := <-s.ended:
		cancel(nil)
		return nil, err
	case <-ctx.Done():
		cancel(context.Cause(ctx))
		return nil, errors.Join(context.Cause(ctx), s.end())
	}
}

// hasEnded returns the error of a server that has ended by itself, which end returns again.
func (s *server) hasEnded() (ended bool, err error) {
	select {
	case err := <-s.ended:
		s.ended <- err
		return true, err
	default:
		return false, nil
	}
}

// end ends the server and waits for it.
func (s *server) end() error {
	s.cancel(errDone)
	err := <-s.ended
	s.ended <- err
	if errors.Is(err, errDone) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// failure is what of the point the server could not read, damage first; nil if it could read all.
func (s *server) failure() error {
	if s == nil {
		return nil
	}
	s.found.mu.Lock()
	defer s.found.mu.Unlock()
	return s.found.err
}

// found is the first error of a server, or the first that is damage.
type found struct {
	mu  sync.Mutex
	err error
}

func (f *found) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil || fail.Is(err, fail.Damaged) && !fail.Is(f.err, fail.Damaged) {
		f.err = err
	}
}
