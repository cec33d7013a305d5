package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/device"
	"github.com/virtbackup/virtbackup/xml"
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

// domainsWith returns the domains that have a block device among their disks, running or not.
// Where libvirt cannot be asked, that is said: what runs keeps the device open all the same.
func domainsWith(c *cli.Context, request restore.Request, path string) (users []string, err error) {
	conn, err := connect(c)
	if err != nil {
		request.Log.Warn(fmt.Sprintf("whether a domain that is shut off uses %s is unknown: %v", path, err))
		return nil, nil
	}
	defer join(&err, conn.Close)
	names, err := conn.Domains()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		used, err := hasDevice(conn, name, path)
		if fail.Is(err, fail.NotFound) { // undefined meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		if used {
			users = append(users, "it is a disk of domain "+name)
		}
	}
	return users, nil
}

// hasDevice tells whether a domain has a block device among its disks, now or when it is
// started.
func hasDevice(conn *hypervisor.Conn, name, path string) (bool, error) {
	domain, err := conn.Domain(name)
	if err != nil {
		return false, err
	}
	for _, read := range []func() (string, error){domain.XML, domain.InactiveXML} {
		doc, err := read()
		if err != nil {
			return false, err
		}
		parsed, err := xml.ParseDomain(doc)
		if err != nil {
			return false, err
		}
		for _, d := range parsed.Disks {
			if device.Same(path, d.Source) {
				return true, nil
			}
		}
	}
	return false, nil
}
