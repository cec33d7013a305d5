package recovery

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/drill/remains"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// Request is what to recover, and how.
type Request struct {
	Domain string
	// DryRun only looks.
	DryRun bool
	// Drills finds the domains of drills, so that what killed ones have left is cleaned up; nil leaves
	// it alone.
	Drills remains.Host
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
	// Whatever is wrong with those: what a run has left, such as a frozen guest, is of more weight.
	drills, drillsErr := drilled(repo, request)
	defer func() {
		err = errors.Join(err, drillsErr)
		report.Fixed, report.Left = append(drills.Removed, report.Fixed...), append(drills.Left, report.Left...)
	}()
	domain, err := host.Domain(request.Domain)
	if errors.Is(err, hypervisor.ErrNoDomain) && len(drills.Removed) > 0 { // drills need none
		return noRun(request), nil
	}
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

// drilled cleans up after drills of the domain.
func drilled(repo *repository.Repository, request Request) (found remains.Found, err error) {
	if request.Drills == nil || manifest.ValidDomain(request.Domain) != nil {
		return found, nil
	}
	err = fault.Around("recover drills", func() error {
		found, err = remains.Clean(repo, request.Domain, request.Drills, request.DryRun)
		return err
	})
	return found, err
}

// noRun is the report of a domain of which there was nothing else to clean up.
func noRun(request Request) Report {
	return Report{Domain: request.Domain, DryRun: request.DryRun, Fixed: []string{}, Left: []string{}, Lost: []string{}}
}

// Domains lists the domains that have a directory in the repository: those that libvirt
// knows, or whose drills may have left something, and those that it does not know (undefined,
// renamed, on another host).
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
		if slices.Contains(all, name) || remains.Any(repo, name) {
			known = append(known, name)
		} else {
			unknown = append(unknown, name)
		}
	}
	return known, unknown, nil
}
