package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/diskmap"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/restore/reading"
)

func mapCommand() *cli.Command {
	return &cli.Command{
		Name:      "map",
		Usage:     "show where on its disks a point has data, zeros and changes",
		ArgsUsage: "DOMAIN[@POINT]",
		Description: "virtbackup map vm1\n" +
			"virtbackup map vm1@check3 --disk vda\n" +
			"virtbackup map vm1 --json | jq '.disks[].extents[] | select(.changed)'\n\n" +
			"Only the tables of the images are read. --json has each extent exactly, in bytes.",
		Flags:  []cli.Flag{&cli.StringSliceFlag{Name: "disk", Usage: "show only disk `TARGET` (vda); may be repeated"}},
		Action: mapAction,
	}
}

func mapAction(c *cli.Context) error {
	arg, err := oneDomain(c)
	if err != nil {
		return err
	}
	repo, domain, at, err := openWithPoint(c, arg)
	if err != nil {
		return err
	}
	return repo.Read(c.Context, domain, func() error {
		point, err := reading.Open(repo, domain, at, c.StringSlice("disk"), reading.Options{Log: logger(c, c.App.ErrWriter)})
		if err != nil {
			return err
		}
		m := view.Map{Point: point.Manifest}
		// Nothing is printed before all tables were read: damage is not found in the middle.
		for _, d := range point.Disks() {
			mapped, err := mapDisk(c.Context, point, d)
			if err != nil {
				return point.Explain(err)
			}
			m.Disks = append(m.Disks, mapped)
		}
		if c.Bool("json") {
			return m.JSON(c.App.Writer)
		}
		return m.Text(c.App.Writer)
	})
}

// mapDisk surveys a disk of a point.
func mapDisk(ctx context.Context, point *reading.Point, d manifest.Disk) (view.MappedDisk, error) {
	with := func(do func(*chain.Chain) error) error {
		images, closeImages, err := point.OpenDisk(ctx, d.Target)
		if err != nil {
			return err
		}
		defer closeImages()
		return do(images)
	}
	mapped := view.MappedDisk{Disk: d, Each: func(do func(diskmap.Extent) error) error {
		return with(func(images *chain.Chain) error { return diskmap.Each(ctx, images, do) })
	}}
	err := with(func(images *chain.Chain) (err error) {
		mapped.Survey, err = diskmap.Look(ctx, images, view.MapWidth)
		return err
	})
	return mapped, err
}
