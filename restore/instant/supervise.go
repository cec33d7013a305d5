package instant

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/xml"
)

const (
	// tick is how often the guest, its server and the pulls are looked at.
	tick = 200 * time.Millisecond
	// pause is how long what has failed is not tried again: a guest is resumed, a pull begun. A disk
	// without space, or a backup that has the disk, would be asked several times a second.
	pause = time.Second
	// noticeTime is how long libvirt may take to see that a QEMU has ended.
	noticeTime = 10 * time.Second
)

// damagedError says that a part of the point cannot be read, which the guest and the pulls need.
type damagedError struct {
	name  string
	lines []string // of the server's log
}

// Error says what the server has said.
func (e *damagedError) Error() string {
	return fmt.Sprintf("domain %s cannot be completed, and pauses where it reads what is damaged: %s", e.name, strings.Join(e.lines, "; "))
}

// Kind is fail.Damaged.
func (e *damagedError) Kind() fail.Kind { return fail.Damaged }

// Hint says what can be done.
func (e *damagedError) Hint() string {
	return "--abandon takes the domain away; virtbackup verify names points that restore, and restore --salvage restores what can be of this one"
}

// complete keeps the domain running until it stands alone, and then forgets where it came from.
func (r *run) complete(ctx context.Context) error {
	err := r.supervise(ctx)
	if err == nil {
		err = r.finish()
	}
	var damaged *damagedError // which has a hint of its own
	if err != nil && !errors.As(err, &damaged) && (ctx.Err() != nil || fail.HintOf(err) == "") {
		err = fail.WithHint(err, "domain %s goes on running from the point: virtbackup restore %s --instant --to %s --resume goes on, --abandon takes it away",
			r.pin.Runs.Name, manifest.ShellWord(r.Domain), manifest.ShellWord(r.pin.Runs.Dir))
	}
	return errors.Join(err, r.letGo())
}

// supervise returns when no disk needs the server any more.
func (r *run) supervise(ctx context.Context) error {
	pulls, err := r.pulls()
	if err != nil {
		return err
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		left, err := r.step(ctx, pulls)
		if err != nil && !r.wentOff(ctx, err) {
			return err
		}
		if err == nil {
			pulls, r.off = left, false
		}
		if len(pulls) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}

// step looks once at what has to go on, and returns the pulls that are not done. One disk is pulled
// after the other: a QEMU before 9.0 may crash where libvirt asks for its nodes, as it does at the
// end of a pull, while another one ends (bdrv_refresh_filename of the filter that is being dropped; from
// 9.0 on commands of the monitor do not run in nested event loops).
func (r *run) step(ctx context.Context, pulls []*pull) (left []*pull, err error) {
	if err := r.keepRunning(ctx); err != nil || len(pulls) == 0 {
		return nil, err
	}
	for i, p := range pulls {
		at, err := r.advance(p)
		switch {
		case err != nil:
			return nil, err
		case at == pulled:
			return slices.Delete(slices.Clone(pulls), i, i+1), nil
		case at == pulling:
			return pulls, nil
		}
	}
	return pulls, nil
}

// wentOff tells whether an error is but that the domain has ended in the middle of a question: then the
// next step says so. The question may fail ("Unable to read from monitor: Connection reset by peer") before
// libvirt has seen that QEMU has ended, so that is waited for.
func (r *run) wentOff(ctx context.Context, err error) bool {
	if r.off || fail.Is(err, fail.Damaged) {
		return false
	}
	var libvirts *hypervisor.Error
	unclear := errors.As(err, &libvirts) && libvirts.Kind == nil
	for start := time.Now(); ; time.Sleep(tick) {
		active, activeErr := r.domain.Active()
		r.off = activeErr == nil && !active
		if r.off || activeErr != nil || !unclear || time.Since(start) >= noticeTime || ctx.Err() != nil {
			return r.off
		}
	}
}

// pulls are those of the disks whose images are on the server, wherever they are now, and of the images
// in the directory that are, whether a disk has them or not.
func (r *run) pulls() (pulls []*pull, err error) {
	definition, err := parsed(r.domain.XML)
	if err != nil {
		return nil, err
	}
	for _, d := range definition.Disks {
		if !hasImage(d) {
			continue
		}
		if err := r.visible(d); err != nil && r.restored(d) {
			return nil, err
		}
		backing, err := backingOf(d.Source)
		if isNoImage(err) || err != nil && !r.restored(d) {
			continue
		}
		if err != nil {
			return nil, err
		}
		unsettled, err := r.unsettled(d.Source)
		if err != nil {
			return nil, err
		}
		if r.onServer(backing) || unsettled {
			pulls = append(pulls, &pull{target: d.Target, image: d.Source})
		}
	}
	for _, path := range r.images() {
		needs, err := r.inNeedOf(path)
		if err != nil {
			return nil, err
		}
		if needs && !slices.ContainsFunc(pulls, func(p *pull) bool { return p.image == path }) {
			pulls = append(pulls, &pull{target: strings.TrimSuffix(filepath.Base(path), imageSuffix), image: path})
		}
	}
	return pulls, nil
}

// imageSuffix ends the name of an image, after the target of its disk (restore.Request.ImageOf).
const imageSuffix = "." + string(restore.QCOW2)

// parsed parses what libvirt says of a domain.
func parsed(ask func() (string, error)) (xml.Domain, error) {
	doc, err := ask()
	if err != nil {
		return xml.Domain{}, err
	}
	return xml.ParseDomain(doc)
}

// keepRunning starts the server again where it has ended, and wakes the guest up that has met that.
// A guest that somebody else has paused stays so.
func (r *run) keepRunning(ctx context.Context) error {
	if err := r.keepServing(ctx); err != nil {
		return err
	}
	state, err := r.domain.State()
	switch {
	case errors.Is(err, hypervisor.ErrNoDomain):
		return fail.WithHint(fmt.Errorf("domain %s is gone: %w", r.pin.Runs.Name, err), "--abandon removes what is left of it")
	case err != nil:
		return err
	case state == hypervisor.ShutOff:
		return r.isOff()
	case state == hypervisor.PausedForIO && time.Since(r.woken) >= pause:
		return r.wake()
	}
	return nil
}

// keepServing starts the server again where it has ended. What keeps it from that may pass: a file
// system is away, memory is short.
func (r *run) keepServing(ctx context.Context) error {
	if time.Since(r.failed) < pause {
		return nil
	}
	started, err := r.server.ensure(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case r.server.hopeless():
		return fail.Errorf(fail.Damaged, "virtbackup verify names points that restore", "domain %s cannot be completed: %w", r.pin.Runs.Name, err)
	default:
		r.failed = time.Now()
		r.once(fmt.Sprintf("%v; it is tried again until it succeeds", err))
		return nil
	}
	if started {
		r.Log.Warn("the server had ended" + r.server.reason() + ", and was started again")
	}
	if lines := r.server.damage(); len(lines) > 0 {
		return &damagedError{r.pin.Runs.Name, lines}
	}
	return nil
}

// isOff waits for a domain that somebody, or its guest, has shut down; one whose QEMU has crashed is
// started by a person.
func (r *run) isOff() error {
	crashed, err := r.domain.Crashed()
	if err != nil {
		return err
	}
	if crashed {
		return fail.WithHint(fmt.Errorf("QEMU of domain %s has crashed, or was killed: /var/log/libvirt/qemu/%[1]s.log may say why", r.domain.Name()),
			"virtbackup restore %s --instant --to %s --resume starts it, and goes on", manifest.ShellWord(r.Domain), manifest.ShellWord(r.pin.Runs.Dir))
	}
	r.once(fmt.Sprintf("domain %s is shut off: the rest is pulled when it runs again", r.domain.Name()))
	return nil
}

// wake resumes a guest that has met an I/O error.
func (r *run) wake() error {
	if full, err := r.domain.OutOfSpace(); err == nil && len(full) > 0 {
		r.once(fmt.Sprintf("there is no space left in %s: the guest goes on when there is", r.pin.Runs.Dir))
	}
	if err := fault.Point("instant: wake the guest"); err != nil {
		return err
	}
	r.Log.Debug(fmt.Sprintf("domain %s was paused by an I/O error: it is resumed", r.domain.Name()))
	r.woken = time.Now()
	err := r.domain.Resume()
	if errors.Is(err, hypervisor.ErrNotRunning) {
		return nil
	}
	return err
}

// once warns of something the first time.
func (r *run) once(message string) {
	if !r.said[message] {
		r.said[message] = true
		r.Log.Warn(message)
	}
}
