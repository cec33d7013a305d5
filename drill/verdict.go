package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
)

const (
	// tick is how often the guest is looked at.
	tick = 250 * time.Millisecond
	// askEvery is how often the agent is asked: each question goes into the guest's channel.
	askEvery = time.Second
	// askTime is how long an agent may take to answer, which is busy like all of the guest when it boots.
	askTime = 3 * time.Second
	// shownLines are those of the console that an error shows. The record has more.
	shownLines = 24
)

// NotBootedError says that a guest did not boot, or that a script found it wanting.
type NotBootedError struct {
	Domain, Point string
	Reason        string
	Console       []string // its last lines
	What          string   // what to do, "" for nothing special
	Damaged       bool     // what the guest has read of the point is damaged
}

// Error shows the last lines of the console, which are to be escaped for terminals.
func (e *NotBootedError) Error() string {
	text := fmt.Sprintf("%s@%s has not booted: %s", e.Domain, e.Point, e.Reason)
	lines := e.Console[max(0, len(e.Console)-shownLines):]
	if len(lines) == 0 {
		return text + "; nothing stands on its serial console"
	}
	return text + "; the last lines of its serial console:\n  " + strings.Join(lines, "\n  ")
}

// Kind is fail.Damaged where the point is.
func (e *NotBootedError) Kind() fail.Kind {
	if e.Damaged {
		return fail.Damaged
	}
	return fail.Other
}

// Hint says what to do.
func (e *NotBootedError) Hint() string { return e.What }

// notBooted is the error of a guest that is not up.
func (d *drill) notBooted(hint, format string, args ...any) error {
	return &NotBootedError{Domain: d.point.Domain, Point: d.point.ID, Reason: fmt.Sprintf(format, args...), Console: d.console.lines(), What: hint}
}

// unreadable is the error of a guest that has read what cannot be read. Where that is not damaged, as of
// a disk of the repository that fails for a while, it says nothing of the point.
func (d *drill) unreadable(failure error) error {
	if !fail.Is(failure, fail.Damaged) {
		return fmt.Errorf("boot %s@%s: %w", d.point.Domain, d.point.ID, failure)
	}
	return &NotBootedError{Domain: d.point.Domain, Point: d.point.ID, Reason: "what it reads is damaged: " + failure.Error(), Console: d.console.lines(), Damaged: true,
		What: "virtbackup verify names what is damaged, and points that restore"}
}

// verdict waits until the guest is up, and has the script judge it. The error is a *NotBootedError
// unless the drill was interrupted, or the file system fills up.
func (d *drill) verdict(ctx context.Context, start time.Time) (err error) {
	ctx, stop := watchRoom(ctx, d.checkRoom)
	defer func() { err = errors.Join(err, stop()) }()
	limited, cancel := context.WithTimeoutCause(ctx, d.Timeout, errTooLong)
	defer cancel()
	if err := d.awaitGuest(limited, start); err != nil {
		return err
	}
	if d.Script != "" {
		if err := d.runScript(ctx); err != nil {
			return err
		}
		if err := d.look(); err != nil { // whatever the script says
			return err
		}
	}
	if d.result.Seconds == 0 {
		d.result.Seconds = round(time.Since(start))
	}
	return nil
}

// lost is the error of a guest that libvirtd has ended, as it does when it is started anew, or whose QEMU was
// killed; nil for any other end. That says nothing of the point.
func (d *drill) lost() error {
	state, err := d.domain.State()
	if gone := errors.Is(err, hypervisor.ErrNoDomain); !gone && (err != nil || state != hypervisor.ShutOff) || d.server.failure() != nil {
		return nil
	}
	if d.domain.Orphaned() {
		return fail.WithHint(fmt.Errorf("boot %s@%s: the connection to libvirt was lost, and libvirt ends the guest then", d.point.Domain, d.point.ID), "try again")
	}
	failed, err := d.note.QEMUFailed()
	if err != nil {
		d.Log.Debug("why QEMU has ended: " + err.Error())
	}
	if !failed {
		return nil
	}
	return fail.WithHint(fmt.Errorf("boot %s@%s: its QEMU crashed, or was killed, which says nothing of the point", d.point.Domain, d.point.ID),
		"the kernel's log (dmesg) says whether it ran out of memory: --memory gives the guest less")
}

func round(t time.Duration) float64 { return t.Round(100 * time.Millisecond).Seconds() }

// errTooLong says that the guest was not up in time.
var errTooLong = errors.New("too long")

// awaitGuest waits until the guest is up.
func (d *drill) awaitGuest(ctx context.Context, start time.Time) error {
	asked := time.Time{}
	for {
		if err := d.look(); err != nil {
			return err
		}
		up := false
		switch {
		case d.Expect != "":
			up = d.console.hasAppeared()
		case !d.machine.Agent:
			return nil // the script does all
		case time.Since(asked) >= askEvery:
			asked = time.Now()
			up = d.domain.AgentAnswers(askTime) == nil
		}
		if up {
			d.result.Seconds = round(time.Since(start))
			return d.look()
		}
		select {
		case <-ctx.Done():
			return d.tooLong(context.Cause(ctx))
		case <-time.After(tick):
		}
	}
}

// tooLong is the error of a guest that is not up when the time is over.
func (d *drill) tooLong(cause error) error {
	switch {
	case !errors.Is(cause, errTooLong):
		return cause
	case d.Expect != "":
		return d.notBooted("a slow host needs a longer --timeout; what the console shows is in the record, with a screenshot", "%q did not appear on its serial console within %s", d.Expect, d.Timeout)
	}
	return d.notBooted("a slow host needs a longer --timeout; a guest without a guest agent: --expect TEXT waits for a text on its serial console, such as \"login:\"",
		"its guest agent did not answer within %s", d.Timeout)
}

// look sees whether the guest can still come up.
func (d *drill) look() error {
	if failure := d.server.failure(); failure != nil {
		return d.unreadable(failure)
	}
	if ended, err := d.server.hasEnded(); ended {
		return fmt.Errorf("the server of the point has ended: %w", err)
	}
	state, err := d.domain.State()
	switch {
	case errors.Is(err, hypervisor.ErrNoDomain) || err == nil && state == hypervisor.ShutOff:
		if failure := d.server.failure(); failure != nil {
			return d.unreadable(failure)
		}
		return d.notBooted("", "it has powered off, rebooted or crashed")
	case err != nil:
		return err
	case state != hypervisor.PausedForIO:
		return nil
	}
	if failure := d.server.failure(); failure != nil {
		return d.unreadable(failure)
	}
	if full, err := d.domain.OutOfSpace(); err == nil && len(full) > 0 {
		return fail.WithHint(fmt.Errorf("there is no space left in %s for what the guest of %s@%s writes", d.note.Parent, d.point.Domain, d.point.ID),
			"free space there, or name another directory with --scratch-dir")
	}
	return d.notBooted("", "it met an I/O error")
}
