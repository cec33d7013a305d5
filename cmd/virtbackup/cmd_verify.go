package main

import (
	"errors"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/verify"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "prove that points can be restored: read every byte of them",
		ArgsUsage: "[DOMAIN[@POINT]]",
		Description: "virtbackup verify              everything\n" +
			"virtbackup verify vm1          all points of a domain\n" +
			"virtbackup verify vm1@check3   one point, and those it needs\n\n" +
			"Exit code 5 means damage; the report names it, what is lost with it, and what\n" +
			"still restores. Nothing is repaired and no point is changed.",
		Action: verifyAction,
	}
}

func verifyAction(c *cli.Context) error {
	if c.Args().Len() > 1 {
		return argumentError(c)
	}
	repo, domain, at, err := openWithPoint(c, c.Args().First())
	if err != nil {
		return err
	}
	// An id is checked even if the manifest of the point is damaged.
	if _, _, err := manifest.ParsePointID(at); at != "" && err != nil {
		m, err := repo.Find(domain, at)
		if err != nil {
			return err
		}
		at = m.ID
	}
	show := newProgress(c, "checked").Of("")
	report, err := verify.Run(c.Context, repo, verify.Request{Domain: domain, Point: at, Log: logger(c, show), Progress: show.Update})
	show.Close(err == nil)
	if err != nil {
		return err
	}
	printed := printAnswer(c, report, func(w io.Writer) error { return view.Verification(w, report, c.Bool("quiet")) })
	if err := errors.Join(printed, report.Err()); err != nil {
		return err
	}
	return warnedIf(len(report.Warnings) > 0)
}
