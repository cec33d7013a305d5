package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/reading"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "turn a point into standalone images, with the domain's XML",
		ArgsUsage: "DOMAIN[@POINT]",
		Description: "virtbackup restore vm1 --to /tmp/vm1\n" +
			"virtbackup restore vm1@check2 --to /tmp/vm1\n" +
			"virtbackup restore vm1 --to /tmp/vm1 --at '2026-11-20 02:00' --format raw\n" +
			"virtbackup restore vm1 --disk vda --output /dev/vg0/vm1\n" +
			"virtbackup restore vm1 --disk vda --output - | ssh host 'cat >/dev/vg0/vm1'\n" +
			"virtbackup restore vm1 --to /var/lib/libvirt/images/vm1 --define --start\n" +
			"virtbackup restore vm1@check2 --to /srv/vm1-test --define --name vm1-test\n" +
			"virtbackup restore vm1@check2 --in-place\n" +
			"virtbackup restore vm1 --instant --to /var/lib/libvirt/images/vm1\n\n" +
			"Nothing is overwritten but a block device that --output names, and with --in-place the\n" +
			"domain's own disks, once that is confirmed. Otherwise the domain itself is not touched:\n" +
			"--define without --name defines it again where it is no longer defined.",
		Flags:  slices.Concat(restoreFlags(), instantFlags(), defineFlags(), inPlaceFlags()),
		Action: restoreAction,
	}
}

// restoreFlags are those of more than one way to restore, and those of --to alone.
func restoreFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "to", Category: ofImages, Usage: "write the images to `DIR`, which is new or empty"},
		&cli.StringFlag{Name: "output", Category: ofImages, Usage: "write one disk (--disk) to `PLACE`: a new file, a block device, or -, standard output; the last two raw"},
		&cli.StringFlag{Name: "format", Category: ofImages, Value: string(restore.QCOW2), Usage: "make images of `FORMAT` qcow2, raw, or source: raw where the disk was raw, else qcow2"},
		&cli.StringFlag{Name: "compress", Category: ofImages, Value: "none", Usage: "compress qcow2 images: `HOW` is none, zstd, or zstd:LEVEL (1 fast to 19 small)"},
		&cli.StringFlag{Name: "preallocation", Category: ofImages, Value: string(restore.PreallocateOff), Usage: "take the images' space now: `HOW` is off, metadata (qcow2), falloc, or full (written with zeros)"},
		&cli.StringFlag{Name: "limit-rate", Category: ofLimits, Usage: "read at most `BYTES` a second over all disks: 800K, 200M, 1G (powers of 1024)"},
		&cli.StringFlag{Name: "at", Category: ofRestore, DefaultText: manifest.Latest, Usage: "restore `POINT`, as after the @: an id, latest, or a time: the newest point at or before it, or before the end of that day, minute or second"},
		&cli.StringSliceFlag{Name: "disk", Category: ofRestore, Usage: "restore only disk `TARGET` (vda); may be repeated"},
		boolFlagOf(ofRestore, "salvage", "restore what can be restored of a damaged point: what is unknown is filled with zeros and listed, and the exit code is 5"),
	}
}

// chosenPoint is the point to restore. at is "" for the newest.
type chosenPoint struct {
	repo       *repository.Repository
	domain, at string
}

// restoreWay is a way to restore, and the option that asks for it.
type restoreWay struct {
	option string
	others []string // options that it does not have, and others do
	run    func(c *cli.Context, chosen chosenPoint) error
}

var (
	optionsOfImages  = []string{"format", "compress", "preallocation"}
	optionsOfInPlace = []string{"yes", "no-save", "force", "stop-time"}

	restoreWays = []restoreWay{{"to", optionsOfInPlace, restoreTo}, {"in-place", optionsOfImages, restoreInPlace}, {"output", optionsOfInPlace, restoreOutput}}
)

func restoreAction(c *cli.Context) error {
	name, err := oneDomain(c)
	if err != nil {
		return err
	}
	way, err := wayToRestore(c)
	if err != nil {
		return err
	}
	chosen, err := pointToRestore(c, name)
	if err != nil {
		return err
	}
	return withSalvage(c, chosen, way(c, chosen))
}

// withSalvage adds --salvage to the hint for damage, where it can help: what it restores of a point
// is found by the point's manifest, and --define needs the domain's XML.
func withSalvage(c *cli.Context, chosen chosenPoint, err error) error {
	var damaged *damage.Error
	if c.Bool("salvage") || !errors.As(err, &damaged) {
		return err
	}
	ofXML := func(p damage.Point) bool { return p.File == manifest.DomainXML }
	if c.Bool("define") && slices.ContainsFunc(damaged.Points, ofXML) {
		return err
	}
	if _, unknown := chosen.repo.Find(chosen.domain, chosen.at); unknown != nil {
		return err
	}
	return fail.WithHint(err, "%s; --salvage restores what can be restored of this point", fail.HintOf(err))
}

// wayToRestore returns the one way that the options ask for. --define is a restore --to a
// directory, and more.
func wayToRestore(c *cli.Context) (func(*cli.Context, chosenPoint) error, error) {
	if isInstant(c) {
		return wayOfInstant(c)
	}
	asked := slices.DeleteFunc(slices.Clone(restoreWays), func(w restoreWay) bool {
		return !c.IsSet(w.option) || c.Value(w.option) == false // --in-place=false asks for nothing
	})
	switch {
	case len(asked) > 1:
		return nil, fail.Errorf(fail.Usage, "leave out one of them", "--%s and --%s exclude each other", asked[0].option, asked[1].option)
	case !c.Bool("define") && (c.IsSet("name") || c.IsSet("start")):
		return nil, fail.Errorf(fail.Usage, "--define --to DIR", "--name and --start need --define")
	case c.Bool("define") && (len(asked) == 0 || asked[0].option != "to"):
		return nil, fail.Errorf(fail.Usage, "--to DIR, which takes the images", "--define needs --to")
	case len(asked) == 0:
		return nil, fail.Errorf(fail.Usage, "--to DIR", "no directory to restore to")
	}
	for _, other := range asked[0].others {
		if c.IsSet(other) {
			return nil, fail.Errorf(fail.Usage, "leave out one of them", "--%s and --%s exclude each other", asked[0].option, other)
		}
	}
	if c.Bool("define") {
		return restoreDefined, nil
	}
	return asked[0].run, nil
}

// restoreRequest reads the options that most ways to restore have.
func restoreRequest(c *cli.Context, chosen chosenPoint) (r restore.Request, err error) {
	r = restore.Request{Domain: chosen.domain, At: chosen.at, Dir: c.String("to"), Disks: c.StringSlice("disk"),
		Format: restore.Format(c.String("format")), Preallocation: restore.Preallocation(c.String("preallocation")),
		Salvage: c.Bool("salvage")}
	if r.Zstd, err = argument.Compression(c.String("compress")); err != nil {
		return r, err
	}
	r.Limits, err = newLimits(c)
	return r, err
}

// restoreTo makes images in a directory.
func restoreTo(c *cli.Context, chosen chosenPoint) error {
	request, err := restoreRequest(c, chosen)
	if err != nil {
		return err
	}
	show := newProgress(c, "copied").Of("")
	request.Log, request.Progress = logger(c, show), show.Update
	result, err := restore.Run(c.Context, chosen.repo, request)
	show.Close(err == nil)
	if err != nil {
		return err
	}
	printed := printDone(c, result, func(w io.Writer) error { return view.Restored(w, result) })
	if err := lostParts(chosen, result.Lost, result.LostFiles...); err != nil {
		return err
	}
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

// lostParts is the error for a restore that has filled parts of disks with zeros, or has left out
// files; nil if nothing was lost.
func lostParts(chosen chosenPoint, lost []reading.Lost, files ...string) error {
	var what []string
	if len(lost) > 0 {
		bytes := int64(0)
		for _, l := range lost {
			bytes += l.Length
		}
		what = append(what, bytesize.Text(bytes)+" of its disks were lost and are filled with zeros")
	}
	if len(files) > 0 {
		what = append(what, strings.Join(files, ", ")+" could not be restored")
	}
	if len(what) == 0 {
		return nil
	}
	return fail.Errorf(fail.Damaged, fmt.Sprintf("virtbackup verify %s shows what is damaged, and which points still restore", manifest.ShellWord(chosen.domain)),
		"the point is damaged: %s; all else is restored as it was", strings.Join(what, "; "))
}

// pointToRestore opens the repository and returns the point that is meant. With --at, the
// whole argument is the name of the domain.
func pointToRestore(c *cli.Context, name string) (p chosenPoint, err error) {
	if !c.IsSet("at") {
		p.repo, p.domain, p.at, err = openWithPoint(c, name)
		return p, err
	}
	if p.repo, err = repository.Open(c.String("repo")); err != nil {
		return chosenPoint{}, err
	}
	known, err := domainsOf(p.repo)
	if err != nil {
		return chosenPoint{}, err
	}
	if domain, _, err := argument.Point(name, known); err == nil && domain != name && known(domain) {
		return chosenPoint{}, fail.Errorf(fail.Usage, "leave out one of them", "%s names a point, and so does --at %s", name, c.String("at"))
	}
	p.domain, p.at = name, c.String("at")
	return p, nil
}
