package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/restore/define"
)

// defineFlags are those of restore --define.
func defineFlags() []cli.Flag {
	return []cli.Flag{
		boolFlagOf(ofDefine, "define", "with --to: define the domain again, on the new images"),
		&cli.StringFlag{Name: "name", Category: ofDefine, Usage: "with --define or --instant: define another domain `NAME`, with a UUID and MAC addresses of its own"},
		boolFlagOf(ofDefine, "start", "start the domain that was defined"),
	}
}

// restoreDefined makes images in a directory, and defines a domain that uses them.
func restoreDefined(c *cli.Context, chosen chosenPoint) (err error) {
	request, err := restoreRequest(c, chosen)
	if err != nil {
		return err
	}
	if c.IsSet("name") && c.String("name") == "" { // a variable of a script that is not set
		return fail.Errorf(fail.Usage, "--name NEW, or leave it out", "--name is empty")
	}
	if !c.IsSet("format") {
		request.Format = "" // as the disks were
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	show := newProgress(c, "copied").Of("")
	request.Log, request.Progress = logger(c, show), show.Update
	result, err := define.Run(c.Context, chosen.repo, conn, define.Request{Request: request, Name: c.String("name"), Start: c.Bool("start")})
	show.Close(err == nil)
	if err != nil && result.Name == "" {
		return err
	}
	printed := printDone(c, result, func(w io.Writer) error { return view.Defined(w, result) })
	if err != nil { // it does not start
		return err
	}
	if err := lostParts(chosen, result.Lost, result.LostFiles...); err != nil {
		return err
	}
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}
