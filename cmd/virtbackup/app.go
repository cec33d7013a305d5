package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
)

// newApp returns the command line. Output goes to stdout, log and progress to stderr.
func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:            "virtbackup",
		Usage:           "incremental backups of KVM guests that restore",
		UsageText:       "virtbackup COMMAND [options] [DOMAIN...]",
		Description:     description,
		Version:         version(),
		Writer:          stdout,
		ErrWriter:       stderr,
		Flags:           globalFlags(),
		Commands:        commands(),
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // main does that
		OnUsageError:    onUsageError,
		Action:          noCommand,
		Before:          checkGlobals,
	}
	for _, c := range app.Commands {
		for _, sub := range append(c.Subcommands, c) {
			sub.OnUsageError = onUsageError
			sub.HideHelpCommand = true
		}
	}
	return app
}

func commands() []*cli.Command {
	return slices.Concat(
		inGroup(toBackUp, fullCommand(), incCommand(), diffCommand(), copyCommand(), autoCommand(), initCommand()),
		inGroup(toRestore, listCommand(), showCommand(), mapCommand(), restoreCommand(), serveCommand(), filesCommand(), verifyCommand(), drillCommand()),
		inGroup(toRetain, pruneCommand(), protectCommand(), unprotectCommand()),
		inGroup(toCleanUp, recoverCommand(), releaseCommand(), forgetCommand(), checkpointCommand()),
	)
}

// inGroup puts commands into a group of the help.
func inGroup(group string, commands ...*cli.Command) []*cli.Command {
	for _, c := range commands {
		c.Category = group
	}
	return commands
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "repo", Usage: "the repository is in `DIR`", Value: "/var/lib/virtbackup", EnvVars: []string{"VIRTBACKUP_REPO"}},
		&cli.StringFlag{Name: "connect", Usage: "connect to the libvirt at `URI`", Value: "qemu:///system", EnvVars: []string{"LIBVIRT_DEFAULT_URI"}},
		boolFlag("json", "print JSON only on standard output"),
		boolFlag("quiet", "print only warnings and errors, and names in lists"),
		boolFlag("verbose", "log every step"),
		&cli.StringFlag{Name: "progress", Usage: "draw progress bars: `WHEN` is auto (on a terminal), always, never", Value: terminal.BarsAuto},
	}
}

// boolFlag returns an option that is off by default.
func boolFlag(name, usage string) cli.Flag {
	return boolFlagOf("", name, usage)
}

// boolFlagOf returns a boolFlag in a group of the help.
func boolFlagOf(group, name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Category: group, Usage: usage, DisableDefaultText: true}
}

// envFlagOf returns a boolFlagOf that an environment variable sets, too.
func envFlagOf(group, name, variable, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Category: group, Usage: usage, EnvVars: []string{variable}, DisableDefaultText: true}
}

// exclusiveFlag is for commands that may change bitmaps in the images of a domain that is shut off.
func exclusiveFlag() cli.Flag {
	return envFlagOf(ofGuest, "exclusive", "VIRTBACKUP_EXCLUSIVE", "no other host uses the block devices and network file systems of this one: images there get bitmaps also while the domain is shut off")
}

func checkGlobals(c *cli.Context) error {
	if p := c.String("progress"); !slices.Contains([]string{terminal.BarsAuto, terminal.BarsAlways, terminal.BarsNever}, p) {
		return fail.Errorf(fail.Usage, "virtbackup --help", "--progress is auto, always or never, not %q", p)
	}
	if c.String("repo") == "" {
		return fail.Errorf(fail.Usage, "virtbackup --repo /srv/backup …", "--repo, or VIRTBACKUP_REPO, names no directory")
	}
	if c.Bool("quiet") && c.Bool("verbose") {
		return fail.Errorf(fail.Usage, "leave out one of them", "--quiet and --verbose exclude each other")
	}
	return nil
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	what := c.App.Name
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != c.App.Name {
		what = c.Command.HelpName
	}
	text := err.Error()
	if option, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		text = "there is no option --" + strings.TrimLeft(option, "-")
	}
	text = strings.Replace(text, " for flag -", " for option --", 1)
	return fail.Errorf(fail.Usage, what+" --help", "%s: %s", what, text)
}

// noCommand runs if there is no command, or none of this name.
func noCommand(c *cli.Context) error {
	if c.Args().Present() {
		return fail.Errorf(fail.Usage, "virtbackup --help", "there is no command %q", c.Args().First())
	}
	return cli.ShowAppHelp(c)
}

// oneDomain returns the command's only argument.
func oneDomain(c *cli.Context) (string, error) {
	if c.Args().Len() == 1 && c.Args().First() != "" {
		return c.Args().First(), nil
	}
	return "", argumentError(c)
}

// argumentError names the arguments that a command takes.
func argumentError(c *cli.Context) error {
	return fail.Errorf(fail.Usage, c.Command.HelpName+" --help", "%s takes the arguments %s: %s", c.Command.HelpName, c.Command.ArgsUsage, given(c.Args().Slice()))
}

// given says which arguments there are instead of those that are taken.
func given(args []string) string {
	if len(args) == 0 {
		return "none was given"
	}
	return fmt.Sprintf("not %q", strings.Join(args, " "))
}

// libvirtHost is the host behind a connection, whose domains have their checkpoints looked after
// also while they are shut off. exclusive is as in shutoff.Options.
func libvirtHost(conn *hypervisor.Conn, exclusive bool) guest.Host {
	return shutoff.Host(guest.Libvirt(conn), shutoff.Options{Exclusive: exclusive})
}

// connect opens the connection to libvirt; the caller closes it.
func connect(c *cli.Context) (*hypervisor.Conn, error) {
	return hypervisor.Connect(c.String("connect"))
}

// forSession adds a hint to errors of permission with a user's own libvirt: the default
// directories belong to root.
func forSession(c *cli.Context, err error) error {
	if !errors.Is(err, fs.ErrPermission) || !strings.HasSuffix(strings.TrimSuffix(c.String("connect"), "/"), ":///session") {
		return err
	}
	return fail.WithHint(err, "with qemu:///session, name existing directories of your own: --scratch-dir and --socket-dir (VIRTBACKUP_REPO or --repo for the repository)")
}

// logger returns a logger that writes to w at the level that the options choose.
func logger(c *cli.Context, w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	switch {
	case c.Bool("quiet"):
		level = slog.LevelWarn
	case c.Bool("verbose"):
		level = slog.LevelDebug
	}
	return terminal.NewLogger(w, level)
}

// reportLogger is for commands that print a report of what was done: it writes warnings
// to w, and every step with --verbose.
func reportLogger(c *cli.Context, w io.Writer) *slog.Logger {
	if c.Bool("verbose") {
		return logger(c, w)
	}
	return terminal.NewLogger(w, slog.LevelWarn)
}

// join adds the error of closing to the error of a command.
func join(err *error, closing func() error) { *err = errors.Join(*err, closing()) }
