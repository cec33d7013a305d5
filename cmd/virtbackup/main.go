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
	"runtime/debug"
	"slices"
	"syscall"
)

func main() {
	ctx, stop := withSignals(context.Background())
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: from a command line to an exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	out := newScreen(stdout)
	defer func() {
		// Left to itself a panic exits with 2, which means something else here.
		if p := recover(); p != nil {
			fmt.Fprintf(stderr, "error: internal error: %v\nhint: report it as a bug, with these lines\n%s", p, debug.Stack())
			code = exitFailed
		}
	}()
	app := newApp(out, stderr)
	arranged, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, arranged)
	}
	code = report(stderr, err)
	if code != exitDone && code != exitWarning && !out.used && wantsJSON(args) {
		_ = printJSON(out, failed(err)) // stderr has it, too
	}
	return code
}

// wantsJSON tells whether the command line asks for JSON, also where it is wrong.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "-json")
}

// signalError is why a run ends when a signal arrives.
type signalError struct{ signal syscall.Signal }

// Error names the signal.
func (e *signalError) Error() string { return fmt.Sprintf("ended by signal: %s", e.signal) }

// Hint says what that means.
func (e *signalError) Hint() string {
	return "what this run had begun is cleaned up; nothing was added"
}

// withSignals cancels the context at the first signal that asks to end. Further
// ones are ignored: what is left then is the clean-up, and its time is bounded.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range signals {
			if ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "%s: cleaning up\n", s)
			}
			cancel(&signalError{s.(syscall.Signal)})
		}
	}()
	return ctx, func() { signal.Stop(signals); close(signals) }
}
