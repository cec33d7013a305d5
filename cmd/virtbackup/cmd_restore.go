package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "turn a point into images of their own, and the domain's XML",
		ArgsUsage: "DOMAIN",
		Description: "virtbackup restore vm1 --to /tmp/vm1\n" +
			"virtbackup restore vm1 --to /tmp/vm1 --at check2\n" +
			"virtbackup restore vm1 --to /tmp/vm1 --at '2026-11-20 02:00' --disk vda --format raw\n\n" +
			"Nothing is overwritten, and the domain itself is not touched.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`DIR` for the images: new or empty"},
			&cli.StringFlag{Name: "at", Value: restore.Latest, Usage: "`POINT`, time (the newest point at or before it), or latest"},
			&cli.StringSliceFlag{Name: "disk", Usage: "restore only disk `TARGET` (vda); may be given again"},
			&cli.StringFlag{Name: "format", Value: string(restore.QCOW2), Usage: "`FORMAT` of the images: qcow2, raw"},
		},
		Action: restoreAction,
	}
}

func restoreAction(c *cli.Context) error {
	domain, err := oneDomain(c)
	if err != nil {
		return err
	}
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	show := newProgress(c)
	result, err := restore.Run(c.Context, repo, restore.Request{
		Domain: domain, At: c.String("at"), Dir: c.String("to"), Disks: c.StringSlice("disk"),
		Format: restore.Format(c.String("format")), Log: logger(c, show), Progress: show.update,
	})
	show.close(err == nil)
	if err != nil {
		return err
	}
	if err := printResult(c, result, func() error { return printRestore(c.App.Writer, result) }); err != nil {
		return err
	}
	if len(result.Warnings) > 0 {
		return errWarned
	}
	return nil
}

// resolve finds a point by id or time; "" is the newest.
func resolve(repo *repository.Repository, domain, at string) (repository.Manifest, error) {
	points, err := repo.Points(domain)
	var damaged *repository.DamagedError
	if err != nil && !errors.As(err, &damaged) {
		return repository.Manifest{}, err
	}
	if at == "" {
		at = restore.Latest
	}
	m, resolveErr := restore.Resolve(domain, points, at)
	if resolveErr != nil {
		return m, errors.Join(resolveErr, err)
	}
	return m, nil
}

func printRestore(w io.Writer, r restore.Result) error {
	if _, err := fmt.Fprintf(w, "restored %s of domain %s, taken %s, in %s\n", r.Point, r.Domain, localTime(r.Time), seconds(r.Seconds)); err != nil {
		return err
	}
	t := newTable(table.Row{"DISK", "SIZE", "DATA", "IMAGE"}, "SIZE", "DATA")
	for _, d := range r.Disks {
		t.AppendRow(table.Row{d.Target, size(d.VirtualSize), size(d.DataBytes), d.Image})
	}
	if err := printTable(w, t, "  "); err != nil {
		return err
	}
	if r.XML == "" {
		return nil
	}
	_, err := fmt.Fprintf(w, "  the domain's XML as it was: %s\n", r.XML)
	return err
}
