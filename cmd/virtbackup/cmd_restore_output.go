package main

import (
	"context"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/restore"
)

// restoreOutput writes one disk to a file, a device or standard output.
func restoreOutput(c *cli.Context, chosen chosenPoint) error {
	request, err := restoreRequest(c, chosen)
	if err != nil {
		return err
	}
	show := newProgress(c, "copied").Of("")
	request.Log, request.Progress = logger(c, show), show.Update
	request.Output = c.String("output")
	if !c.IsSet("format") {
		request.Format = ""
	}
	request.Users = func(ctx context.Context, path string) ([]string, error) { return domainsWith(c, request, path) }
	report := c.App.Writer
	if request.Output == restore.ToStdout {
		report = c.App.ErrWriter
		if request.Stdout, err = rawStdout(c); err != nil {
			return err
		}
	}
	result, err := restore.Output(c.Context, chosen.repo, request)
	show.Close(err == nil)
	if err != nil {
		return err
	}
	printed := printDoneTo(c, report, result, func(w io.Writer) error { return view.Output(w, result) })
	if err := lostParts(chosen, result.Lost); err != nil {
		return err
	}
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

// rawStdout is standard output for a disk. From now on nothing else is printed there, not even
// an error as JSON.
func rawStdout(c *cli.Context) (io.Writer, error) {
	screen, ok := c.App.Writer.(*terminal.Screen)
	if !ok {
		return c.App.Writer, nil
	}
	stdout := screen.Raw()
	if f, ok := stdout.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			return nil, fail.Errorf(fail.Usage, "virtbackup restore … --output - | …", "standard output is a terminal: a disk is not written there")
		}
	}
	return stdout, nil
}
