package instant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore/define"
)

// Recover cleans up after instant restores of points of a domain that were killed: where the domain that
// they made stands alone, or never ran, nothing of them stays but that domain. fixed is what was
// done, or would be with dryRun; left is what only a person can decide. Pins of other hosts are
// left alone.
func Recover(repo *repository.Repository, host define.Host, request Request, dryRun bool) (fixed, left []string, err error) {
	pins, _, err := repo.Pins(request.Domain)
	if err != nil {
		return nil, nil, err
	}
	here, err := os.Hostname()
	if err != nil {
		return nil, nil, err
	}
	for _, pin := range pins {
		if pin.Runs == nil || pin.Host != here {
			continue
		}
		r := newRun(repo, host, request)
		switch err := r.take(pin); {
		case fail.Is(err, fail.Locked), errors.Is(err, fs.ErrNotExist):
			continue // it is at work, or has ended meanwhile
		case fail.Is(err, fail.Damaged):
			return fixed, left, err
		case err != nil:
			left = append(left, err.Error())
			continue
		}
		what, done, err := r.recover(dryRun)
		if err = errors.Join(err, r.letGo()); err != nil {
			return fixed, left, fmt.Errorf("clean up after the instant restore to %s: %w", pin.Runs.Dir, err)
		}
		if done {
			fixed = append(fixed, what)
		} else {
			left = append(left, what)
		}
	}
	return fixed, left, nil
}

// recover cleans up after one. done is false where a person has to decide.
func (r *run) recover(dryRun bool) (what string, done bool, err error) {
	runs := r.pin.Runs
	whole, err := r.isWhole()
	if err != nil {
		return "", false, err
	}
	if !whole {
		if has, err := r.hasRun(); err != nil {
			return "", false, err
		} else if has {
			return fmt.Sprintf("images of domain %s in %s need %s, or cannot be seen, and libvirt has no domain with its UUID (%s): define it again, or --abandon removes what is left",
				runs.Name, runs.Dir, r.pin.Point, runs.UUID), false, nil
		}
		what = fmt.Sprintf("an instant restore to %s, killed before domain %s ran", runs.Dir, runs.Name)
		if dryRun {
			return what, true, nil
		}
		return what, true, r.takeAway()
	}
	pulls, err := r.pulls()
	if err != nil {
		return "", false, err
	}
	if len(pulls) > 0 {
		return unfinished(r.Domain, r.pin), false, nil
	}
	if image, err := r.inNeed(); err != nil {
		return "", false, err
	} else if image != "" {
		return fmt.Sprintf("domain %s needs %s no more, but %s does: remove that if nothing needs it", runs.Name, r.pin.Point, image), false, nil
	}
	what = fmt.Sprintf("the end of an instant restore to %s: domain %s stands alone", runs.Dir, runs.Name)
	if dryRun {
		return what, true, nil
	}
	return what, true, r.finish()
}

// unfinished says what has to be decided of a domain that runs from a point.
func unfinished(domain string, pin keep.Pin) string {
	return fmt.Sprintf("domain %s runs from %s: virtbackup restore %s --instant --to %s --resume goes on until it stands alone, --abandon takes it away",
		pin.Runs.Name, pin.Point, manifest.ShellWord(domain), manifest.ShellWord(pin.Runs.Dir))
}
