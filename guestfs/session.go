package guestfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/serve"
)

// Request says which point's files are read.
type Request struct {
	Domain string
	At     string   // a point's id, a time or latest, as [repository.Repository.Find] takes it
	Disks  []string // targets; none means all
	Log    *slog.Logger
}

// Session is a point whose disks an appliance has. Its methods are for one goroutine.
type Session struct {
	Domain, Point string

	g           *guestfish
	targets     []string // in the order of the appliance's disks
	filesystems []Filesystem
	inspected   bool   // the file systems have mountpoints
	mounted     string // the name of what is mounted; "" nothing yet
	damage      *failures
	log         *slog.Logger
}

// errDone ends the server of a session.
var errDone = errors.New("the session is over")

// Use calls do with a session, and ends it. Nothing is changed in the repository; none of the domain's
// points is replaced or deleted until Use returns, as with [serve.Run].
//
// Errors: those of do, of serve.Run, and fail.Damaged for whatever the appliance has read that is
// damaged, even if do has noticed nothing.
func Use(ctx context.Context, repo *repository.Repository, r Request, do func(*Session) error) (err error) {
	if _, err := lookUp(); err != nil {
		return err // before the point is opened, so that the hint is what a person sees first
	}
	temporary, err := tempDir(tempParent())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temporary.remove()) }()
	dir := temporary.path
	// Not in the directory itself: who listens there locks it for a moment.
	socket := filepath.Join(dir, "s", "nbd")
	if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var (
		ready   = make(chan serve.Served, 1)
		damage  failures
		request = serve.Request{Domain: r.Domain, At: r.At, Disks: r.Disks, Socket: socket, Log: r.Log, Failed: damage.add}
	)
	server := panics.Go(func() error {
		err := serve.Run(ctx, repo, request, func(s serve.Served) error {
			ready <- s
			return nil
		})
		stop(err) // the appliance has no disks any more
		return err
	})
	select {
	case served := <-ready:
		err = use(ctx, dir, socket, &Session{Domain: served.Domain, Point: served.Point, targets: targets(served), damage: &damage, log: r.Log}, do)
		stop(errDone)
		if found := damage.first(); !errors.Is(err, found) {
			err = errors.Join(found, err)
		}
	case err = <-server:
		return err
	}
	if serverErr := <-server; !errors.Is(serverErr, errDone) && !errors.Is(err, serverErr) {
		err = errors.Join(err, serverErr)
	}
	return err
}

func targets(served serve.Served) (targets []string) {
	for _, d := range served.Disks {
		targets = append(targets, d.Target)
	}
	return targets
}

// use starts an appliance for what is served.
func use(ctx context.Context, dir, socket string, s *Session, do func(*Session) error) error {
	if err := fault.Point("files: start"); err != nil {
		return err
	}
	g, err := startGuestfish(dir, cacheDir(dir, s.log), socket, s.targets)
	if err != nil {
		return err
	}
	s.g = g
	return g.whileRunning(ctx, func() error {
		s.log.Debug("starting an appliance of libguestfs")
		if _, err := g.run("run"); err != nil {
			return fail.WithHint(fmt.Errorf("start an appliance of libguestfs: %w", err),
				"libguestfs-test-tool shows what is wrong; on Debian and Ubuntu it needs a kernel in /boot that this user can read (apt-get install linux-image-cloud-amd64)")
		}
		if err := s.findFilesystems(); err != nil {
			return err
		}
		return do(s)
	})
}

// failures is what could not be read of the disks.
type failures struct {
	mu  sync.Mutex
	err error
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *failures) first() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
