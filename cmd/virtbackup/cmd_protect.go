package main

import (
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// maxNote is the longest note of a protection, in bytes: a line of a list.
const maxNote = 200

func protectCommand() *cli.Command {
	return &cli.Command{
		Name:      "protect",
		Usage:     "keep a point, whatever the rules say",
		ArgsUsage: "DOMAIN@POINT",
		Description: "virtbackup protect vm1@check3\n" +
			"virtbackup protect vm1@latest --until 2027-01-01 --note 'last before move'\n\n" +
			"Nothing removes a protected point. Protecting it again replaces date and note.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "until", Usage: "protect it until `DATE`: the end of a day (2027-01-01), or a time (default: until unprotect)"},
			&cli.StringFlag{Name: "note", Usage: "`TEXT` says why; list shows it"},
		},
		Action: protect,
	}
}

func protect(c *cli.Context) error {
	until, err := untilWhen(c, time.Now())
	if err == nil {
		err = checkNote(c.String("note"))
	}
	if err != nil {
		return err
	}
	var protected keep.Protection
	domain, err := withPoint(c, func(lock *repository.Lock, id string) (err error) {
		protected, err = lock.Protect(id, until, c.String("note"))
		return err
	})
	if err != nil {
		return err
	}
	return printDone(c, nowProtected{domain, protected}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s of domain %s is %s\n", protected.Point, domain, protected)
		return err
	})
}

// nowProtected is a point that was protected now, in JSON.
type nowProtected struct {
	Domain string `json:"domain"`
	keep.Protection
}

// untilWhen reads --until; the zero time is no end.
func untilWhen(c *cli.Context, now time.Time) (until time.Time, err error) {
	if !c.IsSet("until") {
		return until, nil
	}
	const example = "--until 2027-01-01, or '2027-01-01 12:00'"
	until, err = manifest.EndOf(c.String("until"))
	switch {
	case err != nil:
		return until, fail.Errorf(fail.Usage, example, "--until: %v", err)
	case !until.After(now):
		return until, fail.Errorf(fail.Usage, example+"; without it, the point stays until virtbackup unprotect", "--until %s is over already", c.String("until"))
	}
	return until, nil
}

// checkNote refuses what would not be one line of a list.
func checkNote(note string) error {
	if len(note) > maxNote {
		return fail.Errorf(fail.Usage, "a few words are enough", "--note has %d bytes, and may have %d", len(note), maxNote)
	}
	for _, c := range note {
		if c == utf8.RuneError || !unicode.IsGraphic(c) {
			return fail.Errorf(fail.Usage, "one line of plain text", "--note %q has characters that cannot be printed", note)
		}
	}
	return nil
}

func unprotectCommand() *cli.Command {
	return &cli.Command{
		Name:        "unprotect",
		Usage:       "let the rules decide about a point again",
		ArgsUsage:   "DOMAIN@POINT",
		Description: "virtbackup unprotect vm1@check3",
		Action:      unprotect,
	}
}

// unprotected is a point that is no longer protected, in JSON.
type unprotected struct {
	Domain string `json:"domain"`
	Point  string `json:"unprotected"`
}

func unprotect(c *cli.Context) error {
	var point string
	domain, err := withPoint(c, func(lock *repository.Lock, id string) error {
		point = id
		return lock.Unprotect(id)
	})
	if err != nil {
		return err
	}
	return printDone(c, unprotected{domain, point}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s of domain %s is no longer protected\n", point, domain)
		return err
	})
}

// withPoint calls do with the id of the point that the only argument names, under the lock
// of its domain.
func withPoint(c *cli.Context, do func(lock *repository.Lock, id string) error) (domain string, err error) {
	name, err := oneDomain(c)
	if err != nil {
		return "", err
	}
	repo, domain, at, err := openWithPoint(c, name)
	if err != nil {
		return "", err
	}
	if at == "" {
		return "", fail.Errorf(fail.Usage, fmt.Sprintf("%s@latest, or another of its points", manifest.ShellWord(domain)), "%s names no point", name)
	}
	if _, err := listed(repo, domain); err != nil { // the lock would make a directory
		return "", err
	}
	id, err := onePoint(repo, domain, at)
	if err != nil {
		return "", err
	}
	lock, err := repo.Lock(domain)
	if err != nil {
		return "", err
	}
	defer join(&err, lock.Unlock)
	return domain, do(lock, id)
}
