package instant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/define"
)

// Request is what to run, and where.
type Request struct {
	define.Request
	// SocketDir is where the server's socket is; "" is guest.DefaultRunDir.
	SocketDir string
	// Program is how this program is called, with its global options.
	Program []string
	// Running, if set, is called once the domain runs.
	Running func(define.Result) error
}

// run is one domain that runs from a point.
type run struct {
	Request
	repo *repository.Repository
	host define.Host
	pin  keep.Pin

	server *server
	domain *hypervisor.Domain
}

// Run makes a domain run from a point, and returns once it stands alone. Cancelling ctx leaves it
// running, from the point: Resume goes on.
//
// Errors: those of define.Run, and nothing is left then; *damage.Error if the domain runs and cannot
// be completed.
func Run(ctx context.Context, repo *repository.Repository, host define.Host, request Request) (result define.Result, err error) {
	r := newRun(repo, host, request)
	r.Start = true
	socket := filepath.Join(guest.RunDir(r.SocketDir), guest.NamePrefix+manifest.NewIdentity()+".sock")
	r.Format = restore.QCOW2
	r.Overlay = func(target string) string { return "nbd+unix:///" + target + "?socket=" + socket }
	prepared, err := define.Prepare(ctx, repo, host, r.Request.Request)
	if err != nil {
		return result, err
	}
	if other, err := r.find(prepared.Dir()); err != nil || other {
		return result, errors.Join(err, r.underWay(other, prepared.Dir()))
	}
	if err := guest.MakeRunDir(r.SocketDir); err != nil {
		return result, err
	}
	if err := r.pinPoint(prepared, socket); err != nil {
		return result, err
	}
	done := false
	defer func() {
		if !done { // after a panic, too
			err = errors.Join(err, r.giveUp())
		}
	}()
	if _, err := r.server.ensure(ctx); err != nil {
		return result, err
	}
	if result, err = prepared.Run(ctx); err != nil {
		return result, errors.Join(err, r.takeAway(result))
	}
	done = true
	if r.domain, err = host.DomainByUUID(result.UUID); err != nil {
		return result, err
	}
	if r.Running != nil {
		if err := r.Running(result); err != nil {
			return result, err
		}
	}
	return result, r.supervise(ctx)
}

func newRun(repo *repository.Repository, host define.Host, request Request) *run {
	if request.Log == nil {
		request.Log = slog.New(slog.DiscardHandler)
	}
	return &run{Request: request, repo: repo, host: host}
}

// pinPoint writes down what is going to be.
func (r *run) pinPoint(prepared *define.Prepared, socket string) error {
	name, uuid := prepared.Domain()
	runs := keep.Runs{Name: name, UUID: uuid, Dir: prepared.Dir(), Socket: socket, Policies: map[string]map[string]string{}}
	for target, p := range prepared.Policies() {
		runs.Policies[target] = p
	}
	lock, err := r.repo.Lock(r.Domain)
	if err != nil {
		return err
	}
	r.pin, err = lock.PinFor(prepared.Point().ID, runs)
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return err
	}
	r.server = &server{program: r.Program, domain: r.Domain, pin: r.pin}
	return fault.Point("instant: pinned")
}

// find looks for the pin of a domain that runs, or was to run, from images in a directory.
func (r *run) find(dir string) (found bool, err error) {
	pins, _, err := r.repo.Pins(r.Domain)
	if err != nil {
		return false, err
	}
	for _, pin := range pins {
		if pin.Runs != nil && pin.Runs.Dir == dir {
			r.pin = pin
			r.server = &server{program: r.Program, domain: r.Domain, pin: pin}
			return true, nil
		}
	}
	return false, nil
}

// underWay is the error where there is such a pin already.
func (r *run) underWay(there bool, dir string) error {
	if !there {
		return nil
	}
	return fail.Errorf(fail.Usage, fmt.Sprintf("--resume goes on, --abandon takes domain %s away", r.pin.Runs.Name),
		"an instant restore to %s is under way, or was killed", dir)
}
