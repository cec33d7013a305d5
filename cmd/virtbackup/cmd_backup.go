package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/fleet"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/pull"
)

func fullCommand() *cli.Command {
	return backupCommand(manifest.KindFull, "copy all that holds data; a base for later backups",
		"virtbackup full vm1\nvirtbackup full vm1 --exclude vdb --quiesce require")
}

func incCommand() *cli.Command {
	return backupCommand(manifest.KindInc, "copy what changed since a point; a base for later backups",
		"virtbackup inc vm1\nvirtbackup inc vm1 --since check2", sinceFlag("the newest point that has a checkpoint"), fallbackFlag(), maxChainFlag())
}

func diffCommand() *cli.Command {
	return backupCommand(manifest.KindDiff, "copy what changed since a point; never a base",
		"virtbackup diff vm1\nvirtbackup diff vm1 --since check1", sinceFlag("the newest full"), fallbackFlag(), maxChainFlag())
}

func copyCommand() *cli.Command {
	return backupCommand(manifest.KindCopy, "copy all that holds data, outside of any chain", "virtbackup copy vm1")
}

func sinceFlag(standard string) cli.Flag {
	return &cli.StringFlag{Name: "since", Usage: "start from `POINT` (default: " + standard + ")"}
}

func fallbackFlag() cli.Flag {
	return &cli.StringFlag{Name: "fallback", Value: string(backup.FallbackRescan),
		Usage: "`MODE` for a disk whose bitmap cannot be used: rescan (read it in full, store what differs from the point before), full, fail"}
}

func maxChainFlag() cli.Flag {
	return &cli.IntFlag{Name: "max-chain", Value: backup.DefaultMaxChain,
		Usage: "a chain may have `N` images: auto then makes a full, inc and diff warn"}
}

func backupCommand(kind manifest.Kind, usage, examples string, more ...cli.Flag) *cli.Command {
	return &cli.Command{
		Name:        string(kind),
		Usage:       usage,
		ArgsUsage:   "DOMAIN",
		Description: examples,
		Flags:       append(more, backupFlags()...),
		Action: func(c *cli.Context) error {
			domain, err := oneDomain(c)
			if err != nil {
				return err
			}
			return backUp(c, kind, domain)
		},
	}
}

func backupFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringSliceFlag{Name: "disk", Usage: "copy only disk `TARGET` (vda); may be given again"},
		&cli.StringSliceFlag{Name: "exclude", Usage: "leave out disk `TARGET`; may be given again"},
		&cli.StringFlag{Name: "quiesce", Value: string(source.QuiesceTry),
			Usage: "`MODE` of freezing the guest's file systems for the instant of the point: try, require, no"},
		&cli.DurationFlag{Name: "agent-timeout", Value: 10 * time.Second, Usage: "`TIME` that the guest agent may take to freeze, and to thaw"},
		&cli.DurationFlag{Name: "wait", Value: 30 * time.Second, Usage: "`TIME` to wait for jobs of others on the domain and its disks"},
		&cli.StringFlag{Name: "scratch-dir", Usage: "`DIR` for QEMU's scratch files (default: " + guest.DefaultRunDir + ")"},
		&cli.StringFlag{Name: "scratch-limit", Usage: "end the backup before the scratch files take `BYTES`: 800M, 10G (default: before their file system is full)"},
		&cli.IntFlag{Name: "keep-checkpoints", Value: backup.DefaultKeepCheckpoints, Usage: "leave the newest `N` checkpoints in libvirt, and that of the newest full"},
		&cli.DurationFlag{Name: "stall-timeout", Value: 5 * time.Minute, Usage: "end the backup when nothing was read or written for `TIME`; 0 waits for ever"},
		&cli.StringFlag{Name: "socket-dir", Usage: "`DIR` for QEMU's NBD socket (default: " + guest.DefaultRunDir + ")"},
	}, tuningFlags()...)
}

func autoCommand() *cli.Command {
	return &cli.Command{
		Name:        "auto",
		Usage:       "inc where there is a usable base, else full; what the timer calls",
		ArgsUsage:   "DOMAIN... | --all",
		Description: "virtbackup auto vm1\nvirtbackup auto --all",
		Flags:       append([]cli.Flag{boolFlag("all", "every domain that runs"), fallbackFlag(), maxChainFlag()}, backupFlags()...),
		Action: func(c *cli.Context) error {
			domains := c.Args().Slice()
			if c.Bool("all") == (len(domains) > 0) {
				return argumentError(c)
			}
			if len(domains) == 1 {
				return backUp(c, backup.Auto, domains[0])
			}
			return backUpSeveral(c, domains)
		},
	}
}

// backUp makes one point and reports it.
func backUp(c *cli.Context, kind manifest.Kind, domain string) (err error) {
	request, err := backupRequest(c, kind)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	result, err := runBackup(c, conn, request, domain)
	if err != nil {
		return forSession(c, err)
	}
	printed := printDone(c, result, func(w io.Writer) error { return printBackup(w, result) })
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

// backUpSeveral makes a point of each domain.
func backUpSeveral(c *cli.Context, domains []string) (err error) {
	request, err := backupRequest(c, backup.Auto)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	if _, err := repository.Open(c.String("repo")); err != nil { // would be said of each
		return err
	}
	if c.Bool("all") {
		if domains, err = fleet.Running(conn); err != nil {
			return err
		}
	}
	return several[backup.Result]{
		what: "backed up",
		do: func(domain string) (backup.Result, bool, error) {
			result, err := runBackup(c, conn, request, domain)
			return result, len(result.Warnings) > 0, err
		},
		print: printBackup,
	}.run(c, domains)
}

// backupRequest reads the options. All domains share what it returns: the limits are those
// of the process.
func backupRequest(c *cli.Context, kind manifest.Kind) (backup.Request, error) {
	tuning, err := tuning(c)
	if err != nil {
		return backup.Request{}, err
	}
	limits, err := newLimits(c)
	if err != nil {
		return backup.Request{}, err
	}
	if err := notNegative(c, "agent-timeout", "wait", "stall-timeout"); err != nil {
		return backup.Request{}, err
	}
	scratchLimit, err := parseBytes("--scratch-limit takes bytes", c.String("scratch-limit"))
	if err != nil {
		return backup.Request{}, err
	}
	if c.IsSet("max-chain") && c.Int("max-chain") < 1 {
		return backup.Request{}, fail.Errorf(fail.Usage, "--max-chain 200", "--max-chain is a number of images from 1 on, not %d", c.Int("max-chain"))
	}
	if c.IsSet("keep-checkpoints") && c.Int("keep-checkpoints") < 1 {
		return backup.Request{}, fail.Errorf(fail.Usage, "--keep-checkpoints 8", "--keep-checkpoints is a number from 1 on, not %d: the next inc starts from one", c.Int("keep-checkpoints"))
	}
	return backup.Request{
		Kind: kind, Since: c.String("since"),
		Disks: c.StringSlice("disk"), Exclude: c.StringSlice("exclude"),
		Fallback: backup.Fallback(c.String("fallback")), MaxChain: c.Int("max-chain"),
		Options: source.Options{
			Quiesce: source.Quiesce(c.String("quiesce")), AgentTimeout: c.Duration("agent-timeout"), Wait: c.Duration("wait"),
			ScratchDir: c.String("scratch-dir"), SocketDir: c.String("socket-dir"), ScratchLimit: scratchLimit,
		},
		KeepCheckpoints: c.Int("keep-checkpoints"), StallTimeout: c.Duration("stall-timeout"),
		Tuning: tuning, Limits: limits, Version: version(),
	}, nil
}

func runBackup(c *cli.Context, conn *hypervisor.Conn, request backup.Request, domain string) (_ backup.Result, err error) {
	show := newProgress(c)
	defer func() { show.close(err == nil) }()
	request.Domain, request.Log, request.Progress = domain, logger(c, show), show.update
	return backup.Run(c.Context, backup.Deps{
		Host: guest.Libvirt(conn), Repository: c.String("repo"),
		Source: func(d *guest.LockedDomain, o source.Options, warn func(string)) backup.Source {
			return pull.New(d, o, warn)
		},
	}, request)
}

func warnedIf(warnings bool) error {
	if warnings {
		return errWarned
	}
	return nil
}

func printBackup(w io.Writer, r backup.Result) error {
	m := r.Point
	since := ""
	if m.Parent != "" {
		since = " since " + m.Parent
	}
	_, image := sums(m)
	if _, err := fmt.Fprintf(w, "%s: %s%s of domain %s, %s consistent, %s in %s\n",
		m.ID, m.Kind, since, m.Domain, m.Consistency, size(image), seconds(r.Seconds)); err != nil {
		return err
	}
	if r.Why != "" && r.Why != "inc: since "+m.Parent { // the line above says that
		if _, err := fmt.Fprintf(w, "  %s\n", r.Why); err != nil {
			return err
		}
	}
	if err := printDisks(w, m, r.Base, "  "); err != nil || len(m.LeftOut) == 0 {
		return err
	}
	var left []string
	for _, d := range m.LeftOut {
		left = append(left, leftOut(d))
	}
	_, err := fmt.Fprintf(w, "  left out: %s\n", strings.Join(left, ", "))
	return err
}
