package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/inplace"
	"github.com/virtbackup/virtbackup/source"
)

// inPlaceFlags are those of restore --in-place.
func inPlaceFlags() []cli.Flag {
	return []cli.Flag{
		boolFlagOf(ofInPlace, "in-place", "put the domain's own disks back, where they are: only what differs is written. The domain must be shut off. A point of its present state is made first"),
		&cli.BoolFlag{Name: "yes", Aliases: []string{"yield"}, Category: ofInPlace, Usage: "do not ask before the disks are overwritten, or the domain is taken away (--abandon)", DisableDefaultText: true},
		boolFlagOf(ofInPlace, "no-save", "make no point of the present state: it is lost"),
		boolFlagOf(ofInPlace, "force", "shut the domain down if it runs, and discard a managed save"),
		&cli.DurationFlag{Name: "stop-time", Category: ofInPlace, Value: inplace.DefaultStopTime, Usage: "give the guest `TIME` to shut down"},
		exclusiveFlag(),
	}
}

// restoreInPlace puts the domain's own disks back to what they were at the point.
func restoreInPlace(c *cli.Context, chosen chosenPoint) (err error) {
	if err := notNegative(c, "stop-time"); err != nil {
		return err
	}
	if c.IsSet("stop-time") && !c.Bool("force") {
		return fail.Errorf(fail.Usage, "--force shuts the domain down", "--stop-time needs --force")
	}
	confirm, err := confirmation(c)
	if err != nil {
		return err
	}
	limits, err := newLimits(c)
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	defer join(&err, conn.Close)
	show := newPasses(c)
	defer func() { show.close(err == nil) }()
	result, err := inplace.Run(c.Context, inPlaceDeps(c, conn, chosen, limits), inplace.Request{
		Domain: chosen.domain, At: chosen.at, Disks: c.StringSlice("disk"), Force: c.Bool("force"), StopTime: c.Duration("stop-time"), NoSave: c.Bool("no-save"), Exclusive: c.Bool("exclusive"), Salvage: c.Bool("salvage"),
		Confirm: func(o inplace.Overwrite) (bool, error) {
			show.close(true)
			return confirm(o)
		},
		Limits: limits, Log: logger(c, c.App.ErrWriter), Progress: show.update,
	})
	if err != nil {
		return err
	}
	show.close(true)
	printed := printDone(c, result, func(w io.Writer) error { return view.RestoredInPlace(w, result) })
	if err := lostParts(chosen, result.Lost, result.LostFiles...); err != nil {
		return err
	}
	return warnedIf(len(result.Warnings) > 0 || printed != nil)
}

func inPlaceDeps(c *cli.Context, conn *hypervisor.Conn, chosen chosenPoint, limits *limit.Limits) inplace.Deps {
	return inplace.Deps{
		Repository: chosen.repo, Host: guest.Libvirt(conn),
		Power:  func(name string) (inplace.Power, error) { return conn.Domain(name) },
		Define: func(doc string) error { _, err := conn.Define(doc, false); return err },
		Save: func(_ context.Context, domain string) (manifest.Manifest, error) {
			request := backup.Request{Wanted: plan.Wanted{Domain: domain, Kind: plan.Auto}, Options: source.Options{Wait: 30 * time.Second, Exclusive: c.Bool("exclusive")},
				KeepCheckpoints: math.MaxInt, StallTimeout: 5 * time.Minute, Limits: limits, Version: version()} // no checkpoint is retired
			result, err := runBackup(c, conn, request, newProgress(c, "saved"), "")
			return result.Point, err
		},
	}
}

// confirmation returns what asks whether the disks may be overwritten. Without a terminal
// nobody can be asked.
func confirmation(c *cli.Context) (func(inplace.Overwrite) (bool, error), error) {
	tell := func(o inplace.Overwrite) error {
		if c.Bool("quiet") {
			return nil
		}
		return view.Overwrite(c.App.ErrWriter, o)
	}
	if c.Bool("yes") {
		return func(o inplace.Overwrite) (bool, error) { return true, tell(o) }, nil
	}
	if !terminal.IsTerminal(c.App.Reader) {
		return nil, fail.Errorf(fail.Usage, "--yes overwrites the disks without a question", "restore --in-place asks before it overwrites anything, and standard input is no terminal")
	}
	return func(o inplace.Overwrite) (bool, error) {
		if err := view.Overwrite(c.App.ErrWriter, o); err != nil { // --quiet, too: it is asked about
			return false, err
		}
		return askYes(c.Context, c.App.ErrWriter, c.App.Reader, "Overwrite?")
	}, nil
}

// askYes asks until the answer is yes or no. The end of the input is a no, and so is the end
// of ctx, which a read of a terminal does not notice.
func askYes(ctx context.Context, out io.Writer, in io.Reader, question string) (bool, error) {
	lines := bufio.NewReader(in)
	for {
		if _, err := fmt.Fprintf(out, "%s [yes/no] ", question); err != nil {
			return false, err
		}
		line, err := readLine(ctx, lines)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "yes", "y":
			return true, nil
		case "no", "n", "":
			return false, nil
		}
		if err != nil {
			return false, nil
		}
	}
}

// readLine reads a line, or returns when ctx is cancelled; then it goes on reading for nobody.
func readLine(ctx context.Context, from *bufio.Reader) (string, error) {
	lines := make(chan string, 1)
	done := panics.Go(func() error {
		line, err := from.ReadString('\n')
		lines <- line
		return err
	})
	select {
	case err := <-done:
		return <-lines, err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// passes shows the progress of the two passes over the disks, one after the other.
type passes struct {
	c    *cli.Context
	mu   sync.Mutex
	pass inplace.Pass
	bars *terminal.Domain
}

func newPasses(c *cli.Context) *passes { return &passes{c: c} }

func (p *passes) update(pass inplace.Pass, target string, done, expected int64) {
	p.mu.Lock()
	if p.pass != pass {
		p.end(true)
		p.pass, p.bars = pass, newProgress(p.c, string(pass)).Of("")
	}
	bars := p.bars
	p.mu.Unlock()
	bars.Update(target, done, expected)
}

// close ends what is shown; complete says whether the pass was done.
func (p *passes) close(complete bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(complete)
}

func (p *passes) end(complete bool) {
	if p.bars != nil {
		p.bars.Close(complete)
		p.pass, p.bars = "", nil
	}
}
