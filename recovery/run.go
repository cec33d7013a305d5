package recovery

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/repository"
)

// Request is what to recover, and how.
type Request struct {
	Domain string
	// DryRun only looks.
	DryRun bool
	// As in Site.
	SocketDir, ScratchDir string
	AgentTimeout          time.Duration
	Log                   *slog.Logger
}

// Run puts right what earlier runs of a domain left, running or shut off, and
// gives libvirt back the checkpoints that it has lost, those that were found to
// be lost for good before among them. It may be repeated at will.
//
// Errors: hypervisor.ErrNoDomain, repository.ErrNotRepository,
// *repository.LockedError while a run of the domain is alive,
// *repository.OtherDomainError, and whatever libvirt or the file system reports.
func Run(ctx context.Context, conn *hypervisor.Conn, dir string, request Request) (report Report, err error) {
	report.Domain = request.Domain
	domain, err := conn.Domain(request.Domain)
	if err != nil {
		return report, err
	}
	repo, err := repository.Open(dir)
	if err != nil {
		return report, err
	}
	lock, err := repo.Lock(request.Domain)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	site := &Site{
		Domain: domain, Repo: repo, Lock: lock, Log: request.Log,
		SocketDir: request.SocketDir, ScratchDir: request.ScratchDir, AgentTimeout: request.AgentTimeout,
	}
	if request.DryRun {
		return site.Look()
	}
	return site.Recover(ctx, true)
}

// Domains lists the domains that have a directory in the repository: those that
// libvirt knows, and those that it does not (undefined, renamed, on another
// host).
func Domains(conn *hypervisor.Conn, dir string) (known, unknown []string, err error) {
	repo, err := repository.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	here, err := repo.Domains()
	if err != nil {
		return nil, nil, err
	}
	all, err := conn.Domains()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range here {
		if slices.Contains(all, name) {
			known = append(known, name)
		} else {
			unknown = append(unknown, name)
		}
	}
	return known, unknown, nil
}
