package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/repository"
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name:      "init",
		Usage:     "make a repository in a new or empty directory",
		ArgsUsage: "[DIR]",
		Description: "virtbackup init                      the one that --repo names\nvirtbackup init /srv/backup\n" +
			"virtbackup init --new-id /srv/copy   the copy of a repository, with a new id",
		Flags:  []cli.Flag{boolFlag("new-id", "give a repository that is a copy an id of its own")},
		Action: initAction,
	}
}

func initAction(c *cli.Context) error {
	dir := c.String("repo")
	switch c.Args().Len() {
	case 0:
	case 1:
		dir = c.Args().First()
	default:
		return argumentError(c)
	}
	makeOrAdopt := repository.Create
	if c.Bool("new-id") {
		makeOrAdopt = repository.NewID
	}
	repo, err := makeOrAdopt(dir)
	if err != nil {
		return err
	}
	made := madeRepository{Repository: repo.Dir(), ID: repo.ID(), Made: repo.IsNew(), RootFileSystem: repo.OnRoot(), FormerIDs: repo.IDs()[1:], adopted: c.Bool("new-id")}
	return printDone(c, made, made.print)
}

// madeRepository is what init did.
type madeRepository struct {
	Repository string `json:"repository"` // absolute path
	ID         string `json:"id"`
	Made       bool   `json:"made"` // false: it was there before
	// RootFileSystem says that it is on the file system of /.
	RootFileSystem bool `json:"root_file_system"`
	// FormerIDs are its ids before --new-id.
	FormerIDs []string `json:"former_ids,omitempty"`
	adopted   bool     // by --new-id, just now
}

func (m madeRepository) print(w io.Writer) error {
	if n := len(m.FormerIDs); m.adopted {
		_, err := fmt.Fprintf(w, "the repository in %s has the id %s; before, it was %s. Checkpoints that it inherited (checkpoint list) are used, but never deleted\n",
			m.Repository, m.ID, m.FormerIDs[n-1])
		return err
	}
	if !m.Made {
		_, err := fmt.Fprintf(w, "there is a repository in %s already (%s)\n", m.Repository, m.ID)
		return err
	}
	where := ""
	if m.RootFileSystem {
		where = ", on the root file system"
	}
	_, err := fmt.Fprintf(w, "made a repository in %s%s (%s)\n", m.Repository, where, m.ID)
	return err
}
