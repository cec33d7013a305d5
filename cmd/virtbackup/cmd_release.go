package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/release"
	"github.com/virtbackup/virtbackup/repository"
)

func releaseCommand() *cli.Command {
	return &cli.Command{
		Name:      "release",
		Usage:     "remove our checkpoints from libvirt, and points if asked",
		ArgsUsage: "DOMAIN[@POINT] | DOMAIN --foreign [CHECKPOINT...]",
		Description: "virtbackup release vm1 --dry-run\nvirtbackup release vm1                   its checkpoints; the points stay\n" +
			"virtbackup release vm1@check3 --points   one point, if no other needs it\nvirtbackup release vm1 --points          all of it\n" +
			"virtbackup release vm1 --foreign         checkpoints of other repositories\n" +
			"virtbackup release vm1 --foreign check7.0123456789abcdef   deletes that one\n\n" +
			"Without its checkpoints a domain can be undefined or moved.",
		Flags: append([]cli.Flag{
			boolFlag("points", "remove the points from the repository, too"),
			boolFlag("foreign", "list the checkpoints that virtbackup made for other repositories, or delete those that are named in full"),
			boolFlag("dry-run", "only say what would be removed"),
		}, runDirFlags()...),
		Action: releaseDomain,
	}
}

// forgetCommand is release under its name before 0.2.0, for scripts. In restic and borg,
// forget is retention.
func forgetCommand() *cli.Command {
	c := releaseCommand()
	c.Name, c.Hidden = "forget", true
	return c
}

func releaseDomain(c *cli.Context) (err error) {
	if c.Bool("foreign") {
		return releaseForeign(c)
	}
	name, err := oneDomain(c)
	if err == nil {
		err = notNegative(c, "agent-timeout")
	}
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	domain, point, err := pointToRelease(conn, repo, name)
	if err != nil {
		return err
	}
	result, err := release.Run(c.Context, libvirtHost(conn, c.Bool("exclusive")), repo, release.Request{
		Domain: domain, Point: point, Points: c.Bool("points"), DryRun: c.Bool("dry-run"), Log: reportLogger(c, c.App.ErrWriter),
		ScratchDir: c.String("scratch-dir"), SocketDir: c.String("socket-dir"), AgentTimeout: c.Duration("agent-timeout"),
	})
	if err != nil {
		if len(result.Checkpoints)+len(result.Points)+len(result.Recovered) > 0 { // some of it was removed
			_ = view.Released(c.App.ErrWriter, result)
		}
		return forSession(c, err)
	}
	return printDone(c, result, func(w io.Writer) error { return view.Released(w, result) })
}

// releaseForeign lists or deletes checkpoints of other repositories.
func releaseForeign(c *cli.Context) (err error) {
	if c.Args().Len() == 0 {
		return argumentError(c)
	}
	if c.Bool("points") {
		return fail.Errorf(fail.Usage, "leave out one of them", "--foreign and --points exclude each other")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	result, err := release.Foreign(libvirtHost(conn, c.Bool("exclusive")), repo, release.ForeignRequest{
		Domain: c.Args().First(), Delete: c.Args().Tail(), DryRun: c.Bool("dry-run"), Log: reportLogger(c, c.App.ErrWriter),
	})
	deleted := release.Result{Domain: result.Domain, DryRun: result.DryRun, Checkpoints: result.Deleted}
	switch {
	case err != nil && len(result.Deleted) > 0: // some were deleted
		_ = view.Released(c.App.ErrWriter, deleted)
		return err
	case err != nil:
		return err
	case c.Args().Len() == 1:
		return printAnswer(c, result, func(w io.Writer) error { return view.Foreign(w, result, c.Bool("quiet")) })
	}
	return printDone(c, result, func(w io.Writer) error { return view.Released(w, deleted) })
}

// pointToRelease returns the domain and point that are meant; "" is all points.
func pointToRelease(conn *hypervisor.Conn, repo *repository.Repository, name string) (domain, point string, err error) {
	inRepo, err := domainsOf(repo)
	if err != nil {
		return "", "", err
	}
	domain, at, err := argument.Point(name, func(domain string) bool {
		_, err := conn.Domain(domain)
		return err == nil || inRepo(domain)
	})
	if err == nil && at != "" {
		at, err = onePoint(repo, domain, at)
	}
	return domain, at, err
}
