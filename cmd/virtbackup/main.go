// Command virtbackup backs up and restores the disks of libvirt guests.
//
// This package has what a person sees: options, reports, exit codes. What a run does is in
// package backup, what a restore does in package restore.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	_ "time/tzdata" // for hosts without a database of time zones

	"github.com/virtbackup/virtbackup/internal/commandline"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/restore"
)

func main() {
	ctx, stop := withSignals(context.Background())
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program, from the command line to the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	out := terminal.NewScreen(stdout)
	before := panics.Last()
	err := panics.Catch(func() error {
		app := newApp(out, stderr)
		arranged, err := commandline.Arrange(app, args)
		if err != nil {
			return err
		}
		return app.RunContext(ctx, arranged)
	})
	if p := panics.Last(); p != before {
		err = withPanic(err, p)
	}
	code = report(stderr, err)
	if code != exitDone && code != exitWarning && !out.Used() && wantsJSON(args) && !wantsDisk(args) {
		_ = printJSON(out, failed(err)) // it is on stderr, too
	}
	return code
}

// wantsJSON reports whether a command line, right or wrong, asks for JSON.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	wants := false
	for _, arg := range args {
		name, value, hasValue := strings.Cut(arg, "=")
		if name == "--json" || name == "-json" {
			yes, err := strconv.ParseBool(value)
			wants = !hasValue || yes || err != nil
		}
	}
	return wants
}

// wantsDisk reports whether a command line, right or wrong, asks for a disk on standard output,
// where nothing else may go then.
func wantsDisk(args []string) bool {
	for i, arg := range args {
		name, value, hasValue := strings.Cut(arg, "=")
		if !hasValue && i+1 < len(args) {
			value = args[i+1]
		}
		if (name == "--output" || name == "-output") && value == restore.ToStdout {
			return true
		}
	}
	return false
}

// signalError is the cause of the end of a run that received a signal.
type signalError struct{ signal syscall.Signal }

// Error names the signal.
func (e *signalError) Error() string { return fmt.Sprintf("ended by signal: %s", e.signal) }

// Hint says in what state the run leaves things.
func (e *signalError) Hint() string {
	return "what this run had begun is cleaned up"
}

// endings are the signals that end a run. Go's default for SIGQUIT (Ctrl-\) is to end the
// process at once, and the kernel sends SIGKILL some time after SIGXCPU (ulimit -t,
// LimitCPU=).
var endings = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGXCPU}

// withSignals returns a context that the first of these signals cancels. Further signals are
// ignored: the run is cleaning up then, which takes a bounded time.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	// Signals that the parent process has set to be ignored stay ignored: nohup does so,
	// and shells for jobs in the background.
	signal.Notify(signals, slices.DeleteFunc(slices.Clone(endings), signal.Ignored)...)
	// Nobody reads this channel. Go ends a program that writes to a closed standard output
	// or error, unless it asks to be notified of SIGPIPE. If it ignored the signal, so
	// would the programs that we start (qemu-img).
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	ended := panics.Go(func() error {
		for s := range signals {
			if ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "%s: cleaning up\n", s)
			}
			cancel(&signalError{s.(syscall.Signal)})
		}
		return nil
	})
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		if err := <-ended; err != nil { // a panic; panics.Last has it, too
			fmt.Fprintln(os.Stderr, err)
		}
	}
}
