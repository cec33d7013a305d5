// Command virtbackup backs up and restores the disks of libvirt guests.
//
// This package is what a person sees: options, tables, progress, exit codes. What
// a run does is in package backup, what a restore does in package restore.
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

	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/terminal"
)

func main() {
	ctx, stop := withSignals(context.Background())
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: from a command line to an exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	out := terminal.NewScreen(stdout)
	before := panics.Last()
	err := panics.Catch(func() error {
		app := newApp(out, stderr)
		arranged, err := arrange(app, args)
		if err != nil {
			return err
		}
		return app.RunContext(ctx, arranged)
	})
	if p := panics.Last(); p != before {
		err = withPanic(err, p)
	}
	code = report(stderr, err)
	if code != exitDone && code != exitWarning && !out.Used() && wantsJSON(args) {
		_ = printJSON(out, failed(err)) // stderr has it, too
	}
	return code
}

// wantsJSON tells whether the command line asks for JSON, also where it is wrong.
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

// signalError is why a run ends when a signal arrives.
type signalError struct{ signal syscall.Signal }

// Error names the signal.
func (e *signalError) Error() string { return fmt.Sprintf("ended by signal: %s", e.signal) }

// Hint says what that means.
func (e *signalError) Hint() string {
	return "what this run had begun is cleaned up; nothing was added"
}

// endings ask a run to end. Left to Go, SIGQUIT (Ctrl-\) ends it at once, as does
// the SIGKILL that the kernel sends some time after SIGXCPU (ulimit -t, LimitCPU=).
var endings = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGXCPU}

// withSignals cancels the context at the first signal that asks to end. Further
// ones are ignored: what is left then is the clean-up, and its time is bounded.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	// What whoever started us has set to be ignored stays so: nohup, and shells that
	// start something in the background.
	signal.Notify(signals, slices.DeleteFunc(slices.Clone(endings), signal.Ignored)...)
	// Nobody reads this channel: Go ends a program at a write to standard output or error
	// that nobody reads any more, unless it has asked for SIGPIPE. Asking, not ignoring:
	// what is ignored programs that we start (qemu-img) would ignore, too.
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
		if err := <-ended; err != nil { // a panic, which is in panics.Last, too
			fmt.Fprintln(os.Stderr, err)
		}
	}
}
