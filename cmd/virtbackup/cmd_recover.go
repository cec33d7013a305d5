package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore/instant"
)

func recoverCommand() *cli.Command {
	return &cli.Command{
		Name:        "recover",
		Usage:       "clean up after a killed run, as every run does first",
		ArgsUsage:   "DOMAIN... | --all",
		Description: "virtbackup recover vm1 --dry-run\nvirtbackup recover vm1\nvirtbackup recover --all",
		Flags: append([]cli.Flag{
			boolFlag("all", "clean up every domain that libvirt knows and the repository has"),
			boolFlag("dry-run", "only say what would be cleaned up"),
		}, runDirFlags()...),
		Action: recoverDomains,
	}
}

// runDirFlags name the places where recover and release look for leftovers.
func runDirFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: "agent-timeout", Category: ofGuest, Value: 10 * time.Second, Usage: "give the guest agent `TIME` to thaw"},
		exclusiveFlag(),
		&cli.StringFlag{Name: "scratch-dir", Category: ofQEMU, Usage: "look for QEMU's scratch files in `DIR` (default: " + guest.DefaultRunDir + ")"},
		&cli.StringFlag{Name: "socket-dir", Category: ofQEMU, Usage: "look for QEMU's NBD socket in `DIR` (default: " + guest.DefaultRunDir + ")"},
	}
}

func recoverDomains(c *cli.Context) (err error) {
	domains := c.Args().Slice()
	if c.Bool("all") == (len(domains) > 0) {
		return argumentError(c)
	}
	if err := notNegative(c, "agent-timeout"); err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	host := libvirtHost(conn, c.Bool("exclusive"))
	var unknown []string
	if c.Bool("all") {
		if domains, unknown, err = recovery.Domains(host, repo); err != nil {
			return err
		}
		for _, name := range unknown {
			if pins, _, err := repo.Pins(name); err != nil || slices.ContainsFunc(pins, func(p keep.Pin) bool { return p.Runs != nil }) {
				domains = append(domains, name)
				continue
			}
			logger(c, c.App.ErrWriter).Info(fmt.Sprintf("libvirt does not know domain %s: its points are kept (virtbackup release %s --points removes them)", name, manifest.ShellWord(name)))
		}
	}
	return recoverEach(c, conn, host, repo, domains, unknown)
}

// recoverEach cleans up after runs of domains. Of those that libvirt does not know, domains of other names
// may run from points.
func recoverEach(c *cli.Context, conn *hypervisor.Conn, host guest.Host, repo *repository.Repository, domains, unknown []string) error {
	return several[recovery.Report]{
		what: "cleaned up",
		do: func(domain string) (found recovery.Report, left bool, err error) {
			if slices.Contains(unknown, domain) {
				found = recovery.Report{Domain: domain, DryRun: c.Bool("dry-run"), Fixed: []string{}, Left: []string{}, Lost: []string{}}
			} else {
				found, err = recovery.Run(c.Context, host, repo, recovery.Request{
					Domain: domain, DryRun: c.Bool("dry-run"), Drills: conn,
					Log:        reportLogger(c, c.App.ErrWriter).With(terminal.DomainKey, nameOfSeveral(domain, domains)),
					ScratchDir: c.String("scratch-dir"), SocketDir: c.String("socket-dir"), AgentTimeout: c.Duration("agent-timeout"),
				})
			}
			return recoverPoints(c, conn, repo, domain, found, err)
		},
		print: view.Recovered,
	}.run(c, domains)
}

// recoverPoints adds to a report what instant restores have left.
func recoverPoints(c *cli.Context, conn *hypervisor.Conn, repo *repository.Repository, domain string, found recovery.Report, err error) (recovery.Report, bool, error) {
	fixed, left, instantErr := recoverInstant(c, conn, repo, domain)
	found.Fixed, found.Left = append(found.Fixed, fixed...), append(found.Left, left...)
	err = errors.Join(err, instantErr)
	if err != nil && len(found.Fixed) > 0 { // some of it was cleaned up
		_ = view.Recovered(c.App.ErrWriter, found)
	}
	return found, len(found.Left) > 0, err
}

// recoverInstant cleans up after instant restores of points of a domain, which libvirt need not know
// for that: the points may run under another name.
func recoverInstant(c *cli.Context, conn *hypervisor.Conn, repo *repository.Repository, domain string) (fixed, left []string, err error) {
	program, err := thisProgram(repo.Dir())
	if err != nil {
		return nil, nil, err
	}
	request := instant.Request{SocketDir: c.String("socket-dir"), Program: program}
	request.Domain, request.Log = domain, logger(c, c.App.ErrWriter)
	return instant.Recover(repo, conn, request, c.Bool("dry-run"))
}
