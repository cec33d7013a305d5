package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/release"
)

func releaseCommand() *cli.Command {
	return &cli.Command{
		Name:      "release",
		Usage:     "remove our checkpoints from libvirt, so that a domain can be undefined or moved; points, too, if asked",
		ArgsUsage: "DOMAIN[@POINT]",
		Description: "virtbackup release vm1 --dry-run\nvirtbackup release vm1                   its checkpoints; the points stay\n" +
			"virtbackup release vm1@check3 --points   one point, if no other needs it\nvirtbackup release vm1 --points          all of it",
		Flags: append([]cli.Flag{
			boolFlag("points", "remove the points from the repository, too"),
			boolFlag("dry-run", "only say what would be removed"),
		}, runDirFlags()...),
		Action: releaseDomain,
	}
}

// forgetCommand is what release was called until 0.2.0, for scripts. Users of restic and
// borg know forget as retention.
func forgetCommand() *cli.Command {
	c := releaseCommand()
	c.Name, c.Hidden = "forget", true
	return c
}

func releaseDomain(c *cli.Context) (err error) {
	name, err := oneDomain(c)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	domain, point := splitPoint(name)
	result, err := release.Run(c.Context, conn, c.String("repo"), release.Request{
		Domain: domain, Point: point, Points: c.Bool("points"), DryRun: c.Bool("dry-run"), Log: logger(c, c.App.ErrWriter),
		ScratchDir: c.String("scratch-dir"), SocketDir: c.String("socket-dir"), AgentTimeout: c.Duration("agent-timeout"),
	})
	if err != nil {
		return err
	}
	return printResult(c, result, func() error { return printReleased(c.App.Writer, result) })
}

func printReleased(w io.Writer, r release.Result) error {
	removed, nothing := "removed ", ""
	if r.DryRun {
		removed = "would remove "
	}
	if len(r.Checkpoints)+len(r.Points) == 0 {
		nothing = "nothing to release"
	}
	return printSections(w, r.Domain, nothing, section{"put right", r.Recovered},
		section{removed + "checkpoint", r.Checkpoints}, section{removed + "point", r.Points}, section{"note", r.Notes})
}
