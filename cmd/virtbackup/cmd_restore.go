package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "turn a point into standalone images, with the domain's XML",
		ArgsUsage: "DOMAIN[@POINT]",
		Description: "virtbackup restore vm1 --to /tmp/vm1\n" +
			"virtbackup restore vm1@check2 --to /tmp/vm1\n" +
			"virtbackup restore vm1 --to /tmp/vm1 --at '2026-11-20 02:00' --format raw\n\n" +
			"Nothing is overwritten, and the domain itself is not touched.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Category: ofImages, Usage: "write the images to `DIR`, which is new or empty"},
			&cli.StringFlag{Name: "format", Category: ofImages, Value: string(restore.QCOW2), Usage: "make images of `FORMAT` qcow2 or raw"},
			&cli.StringFlag{Name: "at", Category: ofRestore, DefaultText: manifest.Latest, Usage: "restore `POINT`, as after the @: an id, latest, or a time: the newest point at or before it, or before the end of that day, minute or second"},
			&cli.StringSliceFlag{Name: "disk", Category: ofRestore, Usage: "restore only disk `TARGET` (vda); may be repeated"},
		},
		Action: restoreAction,
	}
}

func restoreAction(c *cli.Context) error {
	name, err := oneDomain(c)
	if err != nil {
		return err
	}
	repo, domain, at, err := pointToRestore(c, name)
	if err != nil {
		return err
	}
	show := newProgress(c, "copied").Of("")
	result, err := restore.Run(c.Context, repo, restore.Request{
		Domain: domain, At: at, Dir: c.String("to"), Disks: c.StringSlice("disk"),
		Format: restore.Format(c.String("format")), Log: logger(c, show), Progress: show.Update,
	})
	show.Close(err == nil)
	if err != nil {
		return err
	}
	printed := printDone(c, result, func(w io.Writer) error { return view.Restored(w, result) })
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

// pointToRestore opens the repository and returns the point that is meant. With --at, the
// whole argument is the name of the domain.
func pointToRestore(c *cli.Context, name string) (repo *repository.Repository, domain, at string, err error) {
	if !c.IsSet("at") {
		return openWithPoint(c, name)
	}
	if repo, err = repository.Open(c.String("repo")); err != nil {
		return nil, "", "", err
	}
	known, err := domainsOf(repo)
	if err != nil {
		return nil, "", "", err
	}
	if domain, _, err := argument.Point(name, known); err == nil && domain != name && known(domain) {
		return nil, "", "", fail.Errorf(fail.Usage, "leave out one of them", "%s names a point, and so does --at %s", name, c.String("at"))
	}
	return repo, name, c.String("at"), nil
}
