package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
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
				Action:      func(c *cli.Context) error { return listCheckpoints(c, view.Checkpoints) }},
			{Name: "size", Usage: "show how much an inc since each copies at most", ArgsUsage: "DOMAIN",
				Description: "virtbackup checkpoint size vm1\n\nZeros, as after a trim, are counted, but not copied.",
				Action:      func(c *cli.Context) error { return listCheckpoints(c, view.Sizes) }},
			{Name: "delete", Usage: "delete a checkpoint, unless it is needed or not ours", ArgsUsage: "DOMAIN CHECKPOINT",
				Description: "virtbackup checkpoint delete vm1 check2",
				Flags:       []cli.Flag{boolFlag("force", "delete it although it is needed or not ours"), exclusiveFlag()},
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
	domain, err := libvirtHost(conn, c.Bool("exclusive")).Domain(name)
	if err != nil {
		return err
	}
	repo, err := openIfThere(c)
	if err != nil {
		return err
	}
	all, err := checkpoint.List(domain, repo, true)
	if err != nil {
		return err
	}
	return printAnswer(c, view.CheckpointRows(all), func(w io.Writer) error { return print(w, all, c.Bool("quiet")) })
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
	domain, err := libvirtHost(conn, c.Bool("exclusive")).Domain(name)
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
