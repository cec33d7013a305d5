package main

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/drill"
	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

const (
	ofVerdict = "When it is up"
	ofDrill   = "The domain that is booted"
)

func drillCommand() *cli.Command {
	return &cli.Command{
		Name:      "drill",
		Usage:     "prove that points boot: start them in a domain of their own",
		ArgsUsage: "DOMAIN[@POINT] | --all",
		Description: "virtbackup drill vm1                     until its guest agent answers\n" +
			"virtbackup drill vm1 --expect 'login:'   until its console shows that\n" +
			"virtbackup drill vm1 --script ./ask      until ./ask says that all is well\n" +
			"virtbackup drill --all                   those drilled longest ago first\n\n" +
			"The domain has no network and no device of the host, and writes to overlays that are\n" +
			"thrown away; what it reads of the point is proven first. Nothing of it is left but a record\n" +
			"with a screenshot in REPO/DOMAIN/drills. prune keeps the newest point that booted.",
		Flags: []cli.Flag{
			boolFlag("all", "boot the newest point of every domain in the repository, one after the other"),
			&cli.DurationFlag{Name: "max-duration", Usage: "begin with no other domain after `TIME` (exit 3; the next drill --all begins with those that are left)"},
			&cli.DurationFlag{Name: "timeout", Category: ofVerdict, Value: drill.DefaultTimeout, Usage: "give each guest `TIME` to boot"},
			&cli.StringFlag{Name: "expect", Category: ofVerdict, Usage: "wait for `TEXT` on the serial console, instead of the guest agent"},
			&cli.StringFlag{Name: "script", Category: ofVerdict, Usage: "then run the program `FILE` on this host, with the name of the domain and libvirt's URI as arguments: exit status 0 is good"},
			&cli.DurationFlag{Name: "script-timeout", Category: ofVerdict, Value: drill.DefaultScriptTimeout, Usage: "give the script `TIME`"},
			&cli.StringFlag{Name: "memory", Category: ofDrill, Usage: "boot with `BYTES` of memory: 512M, 2G (default: as the guest has, at most half of what the host has free)"},
			&cli.IntFlag{Name: "vcpus", Category: ofDrill, Usage: "boot with `N` processors (default: as the guest has, at most as many as the host has)"},
			&cli.StringFlag{Name: "scratch-dir", Category: ofQEMU, Usage: "put what the guest writes into `DIR`, which QEMU's user can enter (default: " + guest.DefaultRunDir + ")"},
		},
		Action: drillAction,
	}
}

func drillAction(c *cli.Context) (err error) {
	if c.Bool("all") == (c.Args().Len() > 0) || c.Args().Len() > 1 {
		return argumentError(c)
	}
	request, err := drillRequest(c)
	if err != nil {
		return err
	}
	var repo *repository.Repository
	var domains []string
	if c.Bool("all") {
		if repo, err = repository.Open(c.String("repo")); err == nil {
			domains, err = drill.Order(repo)
		}
	} else {
		var domain string
		repo, domain, request.At, err = openWithPoint(c, c.Args().First())
		domains = []string{domain}
	}
	if err != nil {
		return err
	}
	if len(domains) == 0 {
		return fmt.Errorf("repository %s has no points yet: %w", repo.Dir(), manifest.ErrNoPoint)
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	return drillEach(c, conn, repo, request, domains)
}

func drillEach(c *cli.Context, conn *hypervisor.Conn, repo *repository.Repository, request drill.Request, domains []string) error {
	start, most := time.Now(), c.Duration("max-duration")
	return several[record.Record]{
		what: "booted",
		do: func(domain string) (record.Record, bool, error) {
			r := request
			r.Domain = domain
			r.Log = logger(c, c.App.ErrWriter).With(terminal.DomainKey, nameOfSeveral(domain, domains))
			result, err := drill.Run(c.Context, repo, conn, r)
			return result, false, err
		},
		print: func(w io.Writer, r record.Record) error {
			return view.Drilled(w, r, filepath.Join(repo.DomainDir(r.Domain), record.DirName))
		},
		enough: func() bool { return most > 0 && time.Since(start) >= most },
	}.run(c, domains)
}

// drillRequest reads the options.
func drillRequest(c *cli.Context) (r drill.Request, err error) {
	if err := notNegative(c, "max-duration"); err != nil {
		return r, err
	}
	for _, name := range []string{"timeout", "script-timeout"} {
		if c.Duration(name) <= 0 {
			return r, fail.Errorf(fail.Usage, fmt.Sprintf("--%s 5m", name), "--%s must be more than 0, not %v", name, c.Duration(name))
		}
	}
	for _, name := range []string{"expect", "script"} {
		if c.IsSet(name) && c.String(name) == "" { // a variable of a script that is not set
			return r, fail.Errorf(fail.Usage, "leave it out to wait for the guest agent", "--%s is empty", name)
		}
	}
	if c.IsSet("script-timeout") && c.String("script") == "" {
		return r, fail.Errorf(fail.Usage, "--timeout bounds the boot", "--script-timeout is for --script")
	}
	if c.IsSet("vcpus") && c.Int("vcpus") < 1 {
		return r, fail.Errorf(fail.Usage, "--vcpus 1", "--vcpus must be at least 1, not %d", c.Int("vcpus"))
	}
	if r.Memory, err = argument.Bytes("--memory takes bytes", c.String("memory")); err != nil {
		return r, err
	}
	r.Timeout, r.Expect, r.Script, r.ScriptTimeout = c.Duration("timeout"), c.String("expect"), c.String("script"), c.Duration("script-timeout")
	r.VCPUs, r.ScratchDir, r.URI = c.Int("vcpus"), c.String("scratch-dir"), c.String("connect")
	if c.IsSet("max-duration") && !c.Bool("all") {
		return r, fail.Errorf(fail.Usage, "--timeout bounds the boot of one", "--max-duration is for --all")
	}
	return r, nil
}
