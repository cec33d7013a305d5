package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

func checkpointCommand() *cli.Command {
	return &cli.Command{
		Name:      "checkpoint",
		ArgsUsage: "DOMAIN",
		Usage:     "list, measure or delete libvirt's checkpoints",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list all checkpoints of a domain, and their owners", ArgsUsage: "DOMAIN",
				Description: "virtbackup checkpoint list vm1\nvirtbackup checkpoint list vm1 --json",
				Action:      func(c *cli.Context) error { return listCheckpoints(c, printCheckpoints) }},
			{Name: "size", Usage: "show how much an inc since each copies at most", ArgsUsage: "DOMAIN",
				Description: "virtbackup checkpoint size vm1\n\nZeros, as after a trim, are counted, but not copied.",
				Action:      func(c *cli.Context) error { return listCheckpoints(c, printSizes) }},
			{Name: "delete", Usage: "delete a checkpoint, unless it is needed or not ours", ArgsUsage: "DOMAIN CHECKPOINT",
				Description: "virtbackup checkpoint delete vm1 check2",
				Flags:       []cli.Flag{boolFlag("force", "delete it although it is needed or not ours")},
				Action:      deleteCheckpoint},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fail.Errorf(fail.Usage, "virtbackup checkpoint --help", "virtbackup checkpoint has no command %q", c.Args().First())
			}
			return fail.Errorf(fail.Usage, "virtbackup checkpoint --help", "virtbackup checkpoint needs one of the commands list, size and delete")
		},
	}
}

func listCheckpoints(c *cli.Context, print func(w io.Writer, all []checkpoint.Checkpoint, quiet bool) error) (err error) {
	name, err := oneDomain(c)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	domain, err := conn.Domain(name)
	if err != nil {
		return err
	}
	repo, err := openIfThere(c)
	if err != nil {
		return err
	}
	all, err := checkpoint.List(domain, repo)
	if err != nil {
		return err
	}
	return printAnswer(c, checkpointRows(all), func(w io.Writer) error { return print(w, all, c.Bool("quiet")) })
}

// openIfThere opens the repository. It returns nil if there is none: then no checkpoint is
// ours.
func openIfThere(c *cli.Context) (*repository.Repository, error) {
	repo, err := repository.Open(c.String("repo"))
	if errors.Is(err, repository.ErrNotRepository) && !c.IsSet("repo") {
		return nil, nil
	}
	return repo, err
}

func deleteCheckpoint(c *cli.Context) (err error) {
	if c.Args().Len() != 2 {
		return argumentError(c)
	}
	name, target := c.Args().Get(0), c.Args().Get(1)
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	domain, err := conn.Domain(name)
	if err != nil {
		return err
	}
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	lock, err := repo.Lock(name)
	if err != nil {
		return err
	}
	defer join(&err, lock.Unlock)
	loss, err := checkpoint.Remove(domain, lock, target, c.Bool("force"))
	if err != nil {
		return err
	}
	return printDone(c, deleted{target, loss}, func(w io.Writer) error {
		if loss != "" {
			loss = ": " + loss
		}
		_, err := fmt.Fprintf(w, "deleted checkpoint %s of domain %s%s\n", target, name, loss)
		return err
	})
}

type deleted struct {
	Checkpoint string `json:"deleted"`
	Loss       string `json:"loss,omitempty"`
}

// checkpointRow is a checkpoint in JSON.
type checkpointRow struct {
	Name    string    `json:"name"`
	Owner   string    `json:"owner"`
	Point   string    `json:"point,omitempty"`
	Created time.Time `json:"created"`
	// Bytes is how much is dirty, by disk. An incremental copies no more than that, and
	// less if the guest has trimmed or zeroed since. -1 means that the bitmap is missing
	// or broken, or that the domain is shut off.
	Bytes  map[string]int64 `json:"bytes"`
	Broken []string         `json:"broken,omitempty"`
}

func checkpointRows(all []checkpoint.Checkpoint) []checkpointRow {
	rows := []checkpointRow{}
	for _, c := range all {
		row := checkpointRow{Name: c.Name, Owner: c.Owner(), Created: c.Created.UTC(), Bytes: map[string]int64{}, Broken: c.Broken()}
		if c.Sealed {
			row.Point = c.Instant.Point
		}
		for _, d := range c.Disks {
			if d.Bitmap != "" {
				row.Bytes[d.Target] = d.Size
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// printCheckpoints prints a table, or only names if quiet is set.
func printCheckpoints(w io.Writer, all []checkpoint.Checkpoint, quiet bool) error {
	switch {
	case quiet:
		return printNames(w, all)
	case len(all) == 0:
		_, err := fmt.Fprintln(w, "no checkpoints")
		return err
	}
	// Sizes are left out before owners: checkpoint size shows them, too.
	g := terminal.Grid{Columns: []terminal.Column{{Name: "CHECKPOINT"}, {Name: "OWNER"}, {Name: "POINT", Spare: 3}, {Name: "CREATED", Spare: 2},
		{Name: "DISKS", Note: true}, {Name: atMost, Right: true, Spare: 1}}}
	for _, r := range checkpointRows(all) {
		g.Add(r.Name, r.Owner, orNone(r.Point), manifest.TimeText(r.Created), diskStates(all, r.Name), totalSize(r))
	}
	return g.Print(w, "")
}

// atMost is the title of what an inc would copy: zeros are dirty, but not copied.
const atMost = "INC COPIES AT MOST"

func printNames(w io.Writer, all []checkpoint.Checkpoint) error {
	for _, c := range all {
		if _, err := fmt.Fprintln(w, c.Name); err != nil {
			return err
		}
	}
	return nil
}

// diskStates lists the disks of a checkpoint and marks those whose bitmap is lost.
func diskStates(all []checkpoint.Checkpoint, name string) string {
	c, _ := checkpoint.Find(all, name)
	var words []string
	for _, d := range c.Disks {
		switch {
		case d.Bitmap == "":
		case d.Size < 0:
			words = append(words, d.Target+" (broken or unknown)")
		default:
			words = append(words, d.Target)
		}
	}
	return strings.Join(words, " ")
}

func totalSize(r checkpointRow) string {
	var total int64
	for _, n := range r.Bytes {
		if n < 0 {
			return "unknown"
		}
		total += n
	}
	return bytesize.Short(total)
}

// printSizes prints a table, or, if quiet is set, lines of full name, disk and bytes.
func printSizes(w io.Writer, all []checkpoint.Checkpoint, quiet bool) error {
	g := terminal.Grid{Columns: []terminal.Column{{Name: "CHECKPOINT"}, {Name: "DISK"}, {Name: atMost, Right: true}}}
	for _, ckpt := range all {
		for _, d := range ckpt.Disks {
			text := "unknown"
			switch {
			case d.Bitmap == "":
				continue
			case quiet:
				if _, err := fmt.Fprintln(w, ckpt.Name, d.Target, d.Size); err != nil {
					return err
				}
			case d.Size >= 0:
				text = bytesize.Short(d.Size)
			}
			g.Add(ckpt.Label(), d.Target, text)
		}
	}
	if quiet {
		return nil
	}
	return g.Print(w, "")
}
