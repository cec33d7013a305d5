package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/define"
	"github.com/virtbackup/virtbackup/restore/instant"
)

// instantFlags are those of restore --instant.
func instantFlags() []cli.Flag {
	return []cli.Flag{
		boolFlagOf(ofInstant, "instant", "with --to: the domain is defined and runs at once, from the point; its data is pulled to DIR while it runs"),
		boolFlagOf(ofInstant, "resume", "with --to: go on with an instant restore that was ended or killed"),
		boolFlagOf(ofInstant, "abandon", "with --to: take the domain of an instant restore away, with all that its guest has written"),
	}
}

// isInstant tells whether the options are about an instant restore.
func isInstant(c *cli.Context) bool {
	return c.Bool("instant") || c.Bool("resume") || c.Bool("abandon")
}

// wayOfInstant returns what an instant restore is asked to do.
func wayOfInstant(c *cli.Context) (func(*cli.Context, chosenPoint) error, error) {
	does, others := "instant", []string{"in-place", "output", "define", "start", "disk", "salvage", "format", "compress", "preallocation", "no-save", "force", "stop-time"}
	run := restoreInstantly
	switch {
	case c.Bool("resume") && c.Bool("abandon"):
		return nil, fail.Errorf(fail.Usage, "leave out one of them", "--resume and --abandon exclude each other")
	case c.Bool("resume"):
		does, others, run = "resume", append(others, "name", "yes", "at"), resumeInstant
	case c.Bool("abandon"):
		does, others, run = "abandon", append(others, "name", "limit-rate", "at"), abandonInstant
	default:
		others = append(others, "yes")
	}
	for _, other := range others {
		if c.IsSet(other) && c.Value(other) != false {
			return nil, fail.Errorf(fail.Usage, "leave out one of them", "--%s and --%s exclude each other", does, other)
		}
	}
	if c.String("to") == "" {
		return nil, fail.Errorf(fail.Usage, "--to DIR, which takes the images", "--%s needs --to", does)
	}
	return run, nil
}

// restoreInstantly has a domain run from a point, and waits until it stands alone.
func restoreInstantly(c *cli.Context, chosen chosenPoint) error {
	if c.IsSet("name") && c.String("name") == "" { // a variable of a script that is not set
		return fail.Errorf(fail.Usage, "--name NEW, or leave it out", "--name is empty")
	}
	return instantly(c, chosen, func(host define.Host, r instant.Request) (instant.Result, error) {
		return instant.Run(c.Context, chosen.repo, host, r)
	})
}

// resumeInstant goes on with what was killed.
func resumeInstant(c *cli.Context, chosen chosenPoint) error {
	return instantly(c, chosen, func(host define.Host, r instant.Request) (instant.Result, error) {
		return instant.Resume(c.Context, chosen.repo, host, r)
	})
}

// instantly calls do, and shows what it does.
func instantly(c *cli.Context, chosen chosenPoint, do func(define.Host, instant.Request) (instant.Result, error)) (err error) {
	request, err := instantRequest(c, chosen)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	show := newProgress(c, "pulled").Of("")
	request.Log, request.Progress = logger(c, show), show.Update
	result, err := do(conn, request)
	show.Close(err == nil)
	if err != nil {
		return err
	}
	printed := printDone(c, result, func(w io.Writer) error { return view.StandsAlone(w, result) })
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

func instantRequest(c *cli.Context, chosen chosenPoint) (r instant.Request, err error) {
	rate, err := argument.Bytes("--limit-rate takes bytes a second", c.String("limit-rate"))
	if err != nil {
		return r, err
	}
	r.Request = define.Request{Request: restore.Request{Domain: chosen.domain, At: chosen.at, Dir: c.String("to")}, Name: c.String("name")}
	r.Bandwidth = uint64(rate)
	r.Program, err = thisProgram(chosen.repo.Dir())
	return r, err
}

// thisProgram is the command line of this program for a repository, without a command.
func thisProgram(repo string) ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	repo, err = filepath.Abs(repo)
	return []string{program, "--repo", repo}, err
}

// abandonInstant takes the domain of an instant restore away.
func abandonInstant(c *cli.Context, chosen chosenPoint) (err error) {
	if !c.Bool("yes") && !terminal.IsTerminal(c.App.Reader) {
		return fail.Errorf(fail.Usage, "--yes takes it away without a question", "restore --abandon asks before it takes the domain away, and standard input is no terminal")
	}
	request, err := instantRequest(c, chosen)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	request.Log = logger(c, c.App.ErrWriter)
	abandoned, err := instant.Abandon(chosen.repo, conn, request, func(a instant.Abandoned) (bool, error) {
		if c.Bool("yes") {
			return true, nil
		}
		return confirmed(c, a)
	})
	if err != nil {
		return err
	}
	return printDone(c, abandoned, func(w io.Writer) error { return view.Abandoned(w, abandoned) })
}

// confirmed asks whether a domain is to be taken away.
func confirmed(c *cli.Context, a instant.Abandoned) (bool, error) {
	if err := view.Abandon(c.App.ErrWriter, a); err != nil {
		return false, err
	}
	return askYes(c.Context, c.App.ErrWriter, c.App.Reader, "Take it away?")
}
