package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/repository"
)

func checkpointCommand() *cli.Command {
	return &cli.Command{
		Name:  "checkpoint",
		Usage: "list or delete libvirt's checkpoints, whose they are and what they would transfer",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "all checkpoints of a domain, and whose they are", ArgsUsage: "DOMAIN",
				Description: "virtbackup checkpoint list vm1\nvirtbackup checkpoint list vm1 --json",
				Action:      func(c *cli.Context) error { return listCheckpoints(c, printCheckpoints) }},
			{Name: "size", Usage: "how much an incremental since each would copy at most, by disk (zeros, as of a trim, are dirty and not copied)", ArgsUsage: "DOMAIN",
				Description: "virtbackup checkpoint size vm1",
				Action:      func(c *cli.Context) error { return listCheckpoints(c, printSizes) }},
			{Name: "delete", Usage: "delete a checkpoint; refuses one that is needed or not ours", ArgsUsage: "DOMAIN CHECKPOINT",
				Description: "virtbackup checkpoint delete vm1 check2",
				Flags:       []cli.Flag{boolFlag("force", "delete it although it is needed, or not ours")},
				Action:      deleteCheckpoint},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return &usageError{fmt.Sprintf("virtbackup checkpoint has no command %q", c.Args().First()), "virtbackup checkpoint --help"}
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func listCheckpoints(c *cli.Context, print func(*cli.Context, []checkpoint.Checkpoint) error) (err error) {
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
	return printResult(c, checkpointRows(all), func() error { return print(c, all) })
}

// openIfThere opens the repository; where there is none, no checkpoint is ours.
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
	return printResult(c, deleted{target, loss}, func() error {
		if loss != "" {
			loss = ": " + loss
		}
		_, err := fmt.Fprintf(c.App.Writer, "deleted checkpoint %s of domain %s%s\n", target, name, loss)
		return err
	})
}

type deleted struct {
	Checkpoint string `json:"deleted"`
	Loss       string `json:"loss,omitempty"`
}
