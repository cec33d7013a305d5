package recovery

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/repository"
)

// Request is what to recover, and how.
type Request struct {
	Domain string
	// DryRun only looks.
	DryRun bool
	// As in guest.LockedDomain.
	SocketDir, ScratchDir string
	AgentTimeout          time.Duration
	Log                   *slog.Logger
}

// Run cleans up after earlier runs of a domain, running or shut off, and redefines the
// checkpoints that libvirt has lost, including those that an earlier recovery found to be
// lost for good. It may be repeated at will.
//
// Errors: hypervisor.ErrNoDomain, *repository.LockedError while a run of the domain is alive,
// *repository.OtherDomainError, and whatever libvirt or the file system reports.
func Run(ctx context.Context, host guest.Host, repo *repository.Repository, request Request) (report Report, err error) {
	report.Domain = request.Domain
	domain, err := host.Domain(request.Domain)
	if err != nil {
		return report, err
	}
	lock, err := repo.Lock(request.Domain)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	locked := &guest.LockedDomain{
		Domain: domain, Repo: repo, Lock: lock, Log: request.Log,
		SocketDir: request.SocketDir, ScratchDir: request.ScratchDir, AgentTimeout: request.AgentTimeout,
	}
	if request.DryRun {
		return Look(ctx, locked)
	}
	return Recover(ctx, locked, true)
}

// Domains lists the domains that have a directory in the repository: those that libvirt
// knows, and those that it does not know (undefined, renamed, on another host).
func Domains(host guest.Host, repo *repository.Repository) (known, unknown []string, err error) {
	here, err := repo.Domains()
	if err != nil {
		return nil, nil, err
	}
	all, err := host.Domains()
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
