package drill

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"

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
	log    *damageLog
}

// startServer returns once QEMU can connect.
func (d *drill) startServer(ctx context.Context) (*server, error) {
	if err := fault.Point("drill: start server"); err != nil {
		return nil, err
	}
	// Not cancelled with ctx: the domain reads from it until it is gone.
	serving, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &server{cancel: cancel, ended: make(chan error, 1), log: &damageLog{Handler: d.Log.Handler(), found: &found{}}}
	ready := make(chan struct{})
	request := serve.Request{Domain: d.point.Domain, At: d.point.ID, Disks: d.machine.Targets, ForQEMU: true,
		Socket: filepath.Join(d.running.Dir(), serverName), Log: slog.New(s.log)}
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

// failures are what of the point the server could not read.
func (s *server) failures() []string {
	if s == nil {
		return nil
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.lines
}

// maxFailures bounds what is kept of what a server could not read; its log has the rest.
const maxFailures = 20

// found are the errors that were logged.
type found struct {
	mu    sync.Mutex
	lines []string
}

// damageLog is a log that keeps errors: the server logs one for each place that it cannot read.
type damageLog struct {
	slog.Handler
	*found
}

// Enabled is true of errors, whatever the log shows.
func (l *damageLog) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelError || l.Handler.Enabled(ctx, level)
}

// Handle keeps errors, and passes all on.
func (l *damageLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		l.mu.Lock()
		if len(l.lines) < maxFailures {
			l.lines = append(l.lines, r.Message)
		}
		l.mu.Unlock()
	}
	if !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs keeps errors, too.
func (l *damageLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &damageLog{l.Handler.WithAttrs(attrs), l.found}
}

// WithGroup keeps errors, too.
func (l *damageLog) WithGroup(name string) slog.Handler {
	return &damageLog{l.Handler.WithGroup(name), l.found}
}
