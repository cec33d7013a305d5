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

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
)

// newApp is the command line. Output for people or programs goes to stdout, log
// and progress to stderr.
func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:            "virtbackup",
		Usage:           "incremental backups of KVM guests that restore",
		UsageText:       "virtbackup [global options] COMMAND [options] DOMAIN...",
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
			if len(sub.Subcommands) == 0 {
				sub.CustomHelpTemplate = commandHelp
			}
		}
	}
	return app
}

func commands() []*cli.Command {
	return []*cli.Command{
		initCommand(), fullCommand(), incCommand(), diffCommand(), copyCommand(), autoCommand(),
		listCommand(), showCommand(), restoreCommand(), verifyCommand(), checkpointCommand(),
		recoverCommand(), releaseCommand(), forgetCommand(),
	}
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "connect", Usage: "libvirt connection `URI`", Value: "qemu:///system", EnvVars: []string{"LIBVIRT_DEFAULT_URI"}},
		&cli.StringFlag{Name: "repo", Usage: "repository `DIR`", Value: "/var/lib/virtbackup", EnvVars: []string{"VIRTBACKUP_REPO"}},
		boolFlag("json", "standard output is JSON only"),
		boolFlag("quiet", "say nothing but warnings and errors: no report, no table, no progress; list prints names alone"),
		boolFlag("verbose", "say every step"),
		&cli.StringFlag{Name: "progress", Usage: "`WHEN` to draw progress bars: auto (on a terminal), always, never", Value: barsAuto},
	}
}

// boolFlag is one that is off without further mention.
func boolFlag(name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Usage: usage, DisableDefaultText: true}
}

func checkGlobals(c *cli.Context) error {
	if p := c.String("progress"); !slices.Contains([]string{barsAuto, barsAlways, barsNever}, p) {
		return fail.Errorf(fail.Usage, "virtbackup --help", "--progress is auto, always or never, not %q", p)
	}
	if c.String("repo") == "" {
		return fail.Errorf(fail.Usage, "virtbackup --repo /srv/backup …", "--repo, or VIRTBACKUP_REPO, names no directory")
	}
	if c.Bool("quiet") && c.Bool("verbose") {
		return fail.Errorf(fail.Usage, "leave out one of them", "--quiet and --verbose do not go together")
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
	return fail.Errorf(fail.Usage, what+" --help", "%s: %s", what, text)
}

// noCommand runs where no command of ours is named.
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

// argumentError says what arguments a command takes.
func argumentError(c *cli.Context) error {
	got := "none was given"
	if c.Args().Len() > 0 {
		got = fmt.Sprintf("not %q", strings.Join(c.Args().Slice(), " "))
	}
	return fail.Errorf(fail.Usage, c.Command.HelpName+" --help", "%s takes the arguments %s: %s", c.Command.HelpName, c.Command.ArgsUsage, got)
}

// connect opens the connection to libvirt; the caller closes it.
func connect(c *cli.Context) (*hypervisor.Conn, error) {
	return hypervisor.Connect(c.String("connect"))
}

// forSession adds to an error of a user's own libvirt what such a user has to name: the
// defaults are root's.
func forSession(c *cli.Context, err error) error {
	if !errors.Is(err, fs.ErrPermission) || !strings.HasSuffix(strings.TrimSuffix(c.String("connect"), "/"), ":///session") {
		return err
	}
	return fail.WithHint(err, "with qemu:///session name directories of your own, which there have to be: --scratch-dir and --socket-dir (VIRTBACKUP_REPO or --repo for the repository)")
}

// logger writes for people.
func logger(c *cli.Context, w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	switch {
	case c.Bool("quiet"):
		level = slog.LevelWarn
	case c.Bool("verbose"):
		level = slog.LevelDebug
	}
	return slog.New(&lineHandler{w: w, level: level})
}

// reportLogger is for commands whose report says at the end what was done: warnings, and
// with --verbose every step.
func reportLogger(c *cli.Context) *slog.Logger {
	if c.Bool("verbose") {
		return logger(c, c.App.ErrWriter)
	}
	return slog.New(&lineHandler{w: c.App.ErrWriter, level: slog.LevelWarn})
}

// join keeps the error of a command and adds that of closing what it opened.
func join(err *error, closing func() error) { *err = errors.Join(*err, closing()) }
