package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/drill/remains"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/prune"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/offline"
	"github.com/virtbackup/virtbackup/source/pull"
)

func fullCommand() *cli.Command {
	return backupCommand(manifest.KindFull, "copy all that holds data; a base for later backups",
		"virtbackup full vm1\nvirtbackup full vm1 --exclude vdb --quiesce require")
}

func incCommand() *cli.Command {
	return backupCommand(manifest.KindInc, "copy what changed since a point; a base for later backups",
		"virtbackup inc vm1\nvirtbackup inc vm1 --since check2", sinceFlag("the newest that has a checkpoint"))
}

func diffCommand() *cli.Command {
	return backupCommand(manifest.KindDiff, "copy what changed since a point; never a base",
		"virtbackup diff vm1\nvirtbackup diff vm1 --since check1", sinceFlag("the newest full"))
}

func copyCommand() *cli.Command {
	return backupCommand(manifest.KindCopy, "copy all that holds data, outside of any chain", "virtbackup copy vm1")
}

func sinceFlag(standard string) cli.Flag {
	return &cli.StringFlag{Name: "since", Category: ofCopy, Usage: "copy what changed since `POINT` (default: " + standard + ")"}
}

func backupCommand(kind manifest.Kind, usage, examples string, base ...cli.Flag) *cli.Command {
	return &cli.Command{
		Name:        string(kind),
		Usage:       usage,
		ArgsUsage:   "DOMAIN",
		Description: examples,
		Flags:       backupFlags(base...),
		Action: func(c *cli.Context) error {
			domain, err := oneDomain(c)
			if err != nil {
				return err
			}
			return backUp(c, kind, domain)
		},
	}
}

// backupFlags returns the options in the order of the help. base is the first option of the
// commands whose points can have a base.
func backupFlags(base ...cli.Flag) []cli.Flag {
	var fallback, maxChain []cli.Flag
	if len(base) > 0 {
		fallback = []cli.Flag{&cli.StringFlag{Name: "fallback", Category: ofCopy, Value: string(plan.FallbackRescan),
			Usage: "what to do with a disk whose bitmap cannot be used: `MODE` is rescan (read it in full, store what differs from the point before), full, fail"}}
		maxChain = []cli.Flag{&cli.IntFlag{Name: "max-chain", Category: ofLimits, Value: plan.DefaultMaxChain,
			Usage: "a chain has `N` images at most: then auto makes a full, inc and diff warn"}}
	}
	return slices.Concat(base, []cli.Flag{
		&cli.StringSliceFlag{Name: "disk", Category: ofCopy, Usage: "copy only disk `TARGET` (vda); may be repeated"},
		&cli.StringSliceFlag{Name: "exclude", Category: ofCopy, Usage: "leave out disk `TARGET`; may be repeated"},
	}, fallback, []cli.Flag{
		&cli.StringFlag{Name: "quiesce", Category: ofGuest, Value: string(source.QuiesceTry),
			Usage: "freeze the guest's file systems for the instant of the point: `MODE` is try, require, no"},
		&cli.DurationFlag{Name: "agent-timeout", Category: ofGuest, Value: 10 * time.Second, Usage: "give the guest agent `TIME` to freeze, and to thaw"},
		&cli.DurationFlag{Name: "wait", Category: ofGuest, Value: 30 * time.Second, Usage: "wait `TIME` for other jobs on the domain and its disks"},
		envFlagOf(ofGuest, "yield", "VIRTBACKUP_YIELD", "end the backup of a domain that is shut off when somebody wants to start it, which fails meanwhile"),
		exclusiveFlag(),
		&cli.IntFlag{Name: "keep-checkpoints", Category: ofGuest, Value: backup.DefaultKeepCheckpoints, Usage: "keep the newest `N` checkpoints in libvirt, and that of the newest full"},
		&cli.StringFlag{Name: "compress", Category: ofImages, Value: "none", Usage: "compress the images: `HOW` is none, zstd, or zstd:LEVEL (1 fast to 19 small)"},
		&cli.StringFlag{Name: "direct", Category: ofImages, Value: "auto", Usage: "write past the page cache: `WHEN` is auto (where the file system can), always, never"},
		&cli.StringFlag{Name: "limit-rate", Category: ofLimits, Usage: "read at most `BYTES` a second over all disks: 800K, 200M, 1G (powers of 1024)"},
		&cli.IntFlag{Name: "connections", Category: ofLimits, DefaultText: "2", Usage: "read each disk over `N` NBD connections"},
	}, maxChain, []cli.Flag{
		&cli.DurationFlag{Name: "stall-timeout", Category: ofLimits, Value: 5 * time.Minute, Usage: "end the backup after `TIME` without a read or write; 0 waits forever"},
		&cli.StringFlag{Name: "scratch-dir", Category: ofQEMU, Usage: "put QEMU's scratch files into `DIR` (default: " + guest.DefaultRunDir + ")"},
		&cli.StringFlag{Name: "scratch-limit", Category: ofQEMU, Usage: "end the backup before the scratch files take `BYTES`: 800M, 10G (default: before their file system is full)"},
		&cli.StringFlag{Name: "socket-dir", Category: ofQEMU, Usage: "put QEMU's NBD socket into `DIR` (default: " + guest.DefaultRunDir + ")"},
	})
}

func autoCommand() *cli.Command {
	return &cli.Command{
		Name:        "auto",
		Usage:       "inc where there is a usable base, else full; for timers",
		ArgsUsage:   "DOMAIN... | --all",
		Description: "virtbackup auto vm1\nvirtbackup auto --all\nvirtbackup auto vm1 --full-every 90d",
		Flags:       append(backupFlags(boolFlagOf(ofCopy, "all", "back up every domain, running or shut off")), newChainFlags()...),
		Action: func(c *cli.Context) error {
			domains := c.Args().Slice()
			if c.Bool("all") == (len(domains) > 0) {
				return argumentError(c)
			}
			if len(domains) == 1 {
				return backUp(c, plan.Auto, domains[0])
			}
			return backUpSeveral(c, domains)
		},
	}
}

// newChainFlags say when auto begins a new chain, besides --max-chain.
func newChainFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "full-every", Category: ofLimits, Usage: "make a full when all of the disks was last read longer than `SPAN` ago: 90d, 6m (default: never)"},
		boolFlagOf(ofLimits, "synthetic", "where a full is due, make an inc, and a full of it from the repository alone"),
	}
}

// backUp makes a point of one domain and prints a report.
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
	request.Domain = domain
	result, err := runBackup(c, conn, request, newProgress(c, "copied"), "")
	if err != nil {
		return forSession(c, err)
	}
	printed := printDone(c, result, func(w io.Writer) error { return view.Backup(w, result) })
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

// backUpSeveral makes a point of each domain.
func backUpSeveral(c *cli.Context, domains []string) (err error) {
	request, err := backupRequest(c, plan.Auto)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	if _, err := repository.Open(c.String("repo")); err != nil { // or each domain would report it
		return err
	}
	if c.Bool("all") {
		if domains, err = conn.Domains(); err != nil {
			return err
		}
		domains = slices.DeleteFunc(domains, func(name string) bool { return strings.HasPrefix(name, remains.NamePrefix) }) // gone in a moment
	}
	show := newProgress(c, "copied")
	return several[backup.Result]{
		what: "backed up",
		do: func(domain string) (backup.Result, bool, error) {
			request := request
			request.Domain = domain
			result, err := runBackup(c, conn, request, show, nameOfSeveral(domain, domains))
			return result, len(result.Warnings) > 0, err
		},
		print: view.Backup,
	}.run(c, domains)
}

// backupRequest reads the options. All domains share the result, because its limits are
// those of the process.
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
	scratchLimit, err := argument.Bytes("--scratch-limit takes bytes", c.String("scratch-limit"))
	if err != nil {
		return backup.Request{}, err
	}
	if c.IsSet("max-chain") && c.Int("max-chain") < 1 {
		return backup.Request{}, fail.Errorf(fail.Usage, "--max-chain 200", "--max-chain must be at least 1, not %d", c.Int("max-chain"))
	}
	if c.IsSet("keep-checkpoints") && c.Int("keep-checkpoints") < 1 {
		return backup.Request{}, fail.Errorf(fail.Usage, "--keep-checkpoints 8", "--keep-checkpoints must be at least 1, not %d: the next inc starts from a checkpoint", c.Int("keep-checkpoints"))
	}
	var fullEvery retention.Span
	if c.IsSet("full-every") {
		if fullEvery, err = retention.ParseSpan(c.String("full-every")); err != nil {
			return backup.Request{}, fmt.Errorf("--full-every: %w", err)
		}
	}
	return backup.Request{
		Wanted: plan.Wanted{
			Kind: kind, Since: c.String("since"),
			Disks: c.StringSlice("disk"), Exclude: c.StringSlice("exclude"),
			Fallback: plan.Fallback(c.String("fallback")), MaxChain: c.Int("max-chain"), FullEvery: fullEvery, Synthetic: c.Bool("synthetic"),
		},
		Options: source.Options{
			Quiesce: source.Quiesce(c.String("quiesce")), AgentTimeout: c.Duration("agent-timeout"), Wait: c.Duration("wait"),
			ScratchDir: c.String("scratch-dir"), SocketDir: c.String("socket-dir"), ScratchLimit: scratchLimit,
			Exclusive: c.Bool("exclusive"), Yield: c.Bool("yield"),
		},
		KeepCheckpoints: c.Int("keep-checkpoints"), StallTimeout: c.Duration("stall-timeout"),
		Tuning: tuning, Limits: limits, Version: version(),
	}, nil
}

// runBackup makes one point. name is shown with its log lines and progress; it is "" if there
// is only one domain.
func runBackup(c *cli.Context, conn *hypervisor.Conn, request backup.Request, show *terminal.Progress, name string) (_ backup.Result, err error) {
	disks := show.Of(name)
	defer func() { disks.Close(err == nil) }()
	request.Log, request.Progress = logger(c, disks).With(terminal.DomainKey, name), disks.Update
	result, err := backup.Run(c.Context, backup.Deps{
		Host: libvirtHost(conn, request.Exclusive), Repository: c.String("repo"),
		Source: func(d *guest.LockedDomain, o source.Options, warn func(string)) backup.Source {
			return pull.New(d, o, warn)
		},
		Off: func(d *guest.LockedDomain, o source.Options, warn func(string)) backup.Source {
			return offline.New(d, o, warn)
		},
	}, request)
	if err == nil && result.Standalone != "" {
		makeStandalone(c.Context, c.String("repo"), &result, prune.Options{Limits: request.Limits, Log: request.Log, Progress: request.Progress})
	}
	return result, err
}

// makeStandalone makes a point standalone that was just made, as auto --synthetic asks for.
// The point counts whatever comes of that: an error, also a panic, is a warning.
func makeStandalone(ctx context.Context, dir string, backup *backup.Result, o prune.Options) {
	err := panics.Catch(func() error {
		repo, err := repository.Open(dir)
		if err != nil {
			return err
		}
		made, err := prune.Materialise(ctx, repo, backup.Point.Domain, backup.Point.ID, o)
		backup.Notes, backup.Warnings = append(backup.Notes, made.Notes...), append(backup.Warnings, made.Warnings...)
		if err != nil {
			return err
		}
		backup.Point, err = repo.Point(backup.Point.Domain, backup.Point.ID)
		return err
	})
	if err != nil {
		warning := fmt.Sprintf("%s is an inc, and not made standalone (the next auto tries again): %v", backup.Point.ID, err)
		backup.Warnings = append(backup.Warnings, warning)
		o.Log.Warn(warning)
	}
}

func warnedIf(warnings bool) error {
	if warnings {
		return errWarned
	}
	return nil
}
