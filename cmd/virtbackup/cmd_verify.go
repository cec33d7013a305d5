package main

import (
	"errors"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
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
			"virtbackup verify vm1@check3   one point, and those it needs\n" +
			"virtbackup verify --quick      whether anything is missing or cut short\n" +
			"virtbackup verify --sample 10% --max-duration 1h\n\n" +
			"A point counts as verified when every byte of it, and of all that it needs, was read,\n" +
			"and since the one that was read longest ago: ten runs with --sample 10% do that.\n\n" +
			"Exit code 5 means damage; the report names it, what is lost with it, and what\n" +
			"still restores. Nothing is repaired and no point is changed.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quick", Usage: "read tables, hash lists and small files, but no data; never counts as verified"},
			&cli.StringFlag{Name: "sample", Usage: "do that, and read `PERCENT` of the data: what was read longest ago (1% to 100%)"},
			&cli.DurationFlag{Name: "max-duration", Usage: "begin no point after `TIME`, such as 1h; verified longest ago come first, the next run goes on (exit 3 if some are left)"},
		},
		Action: verifyAction,
	}
}

// verifyRequest reads the options of verify.
func verifyRequest(c *cli.Context) (r verify.Request, err error) {
	r = verify.Request{Quick: c.Bool("quick"), MaxDuration: c.Duration("max-duration")}
	switch {
	case c.IsSet("max-duration") && r.MaxDuration <= 0:
		return r, fail.Errorf(fail.Usage, "--max-duration 1h", "--max-duration must be more than 0, not %v", r.MaxDuration)
	case r.Quick && c.IsSet("sample"):
		return r, fail.Errorf(fail.Usage, "--sample reads what --quick reads, too", "--quick and --sample exclude each other")
	case r.Quick && c.IsSet("max-duration"):
		return r, fail.Errorf(fail.Usage, "--sample 1% --max-duration 1h", "--quick and --max-duration exclude each other: a quick run does not count as verified, so the next one could not go on")
	}
	if c.IsSet("sample") {
		r.Sample, err = argument.Percent("--sample", c.String("sample"))
	}
	return r, err
}

func verifyAction(c *cli.Context) error {
	if c.Args().Len() > 1 {
		return argumentError(c)
	}
	request, err := verifyRequest(c)
	if err != nil {
		return err
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
	request.Domain, request.Point, request.Log, request.Progress = domain, at, logger(c, show), show.Update
	report, err := verify.Run(c.Context, repo, request)
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
