package offline

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/localimage"
	"github.com/virtbackup/virtbackup/xml"
)

// idlePause is the time between two looks at images that another process has open.
const idlePause = 500 * time.Millisecond

// AwaitIdle waits until no other process has the images of the disks to be copied open for
// writing, and returns the domain as it is then.
func (s *Source) AwaitIdle(ctx context.Context, targets []string) (xml.Domain, error) {
	s.idleBy = time.Now().Add(s.Wait)
	err := s.await(ctx, targets)
	if err == nil {
		s.off, err = s.d.Domain.WhyShutOff()
	}
	if err == nil {
		s.Log.Info(fmt.Sprintf("domain %s is shut off (%s): its images are read, and it cannot be started until they are", s.name(), s.off))
	}
	return s.seen, err
}

// await waits until the images can be looked at, at most until idleBy, and looks at them.
func (s *Source) await(ctx context.Context, targets []string) error {
	for waited := false; ; waited = true {
		seen, chains, err := s.look(ctx, targets)
		if !errors.Is(err, qemuimg.ErrLocked) {
			s.seen, s.chains, s.ids = seen, chains, identities(chains)
			return explainMissing(err)
		}
		if !time.Now().Before(s.idleBy) {
			return fail.WithHint(fmt.Errorf("another process has an image open: %w", err), "it may be another domain, or a program such as qemu-nbd or qemu-img; --wait TIME waits longer")
		}
		if !waited {
			s.Log.Info(fmt.Sprintf("waiting up to %v: %v", time.Until(s.idleBy).Round(time.Second), err))
		}
		select {
		case <-time.After(idlePause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// explainMissing adds a hint to the error of a program that is not installed.
func explainMissing(err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return fail.WithHint(err, "%s", qemuimg.Packages)
	}
	return err
}

// look describes the domain, which must be off, and the images of disks of it.
func (s *Source) look(ctx context.Context, targets []string) (seen xml.Domain, chains map[string][]qemuimg.Image, err error) {
	if err := s.checkOff(); err != nil {
		return seen, nil, err
	}
	if seen, err = s.d.Describe(); err != nil {
		return seen, nil, err
	}
	chains = map[string][]qemuimg.Image{}
	for _, target := range targets {
		disk, ok := seen.Disk(target)
		if !ok {
			return seen, nil, s.changed("disk %s of domain %s is gone", target, s.name())
		}
		if chains[target], err = shutoff.Images(ctx, s.d.Domain, disk, false); err != nil {
			return seen, nil, err
		}
	}
	return seen, chains, nil
}

// checkOff returns an error unless the domain is shut off.
func (s *Source) checkOff() error {
	active, err := s.d.Domain.Active()
	if err == nil && active {
		err = s.changed("domain %s %w", s.name(), source.ErrStarted)
	}
	return err
}

// lockedOut is the error of an image that another process has open for writing.
func (s *Source) lockedOut(target string, err error) error {
	if off := s.checkOff(); off != nil {
		return off
	}
	return s.changed("another process has an image of disk %s of domain %s open: %w", target, s.name(), err)
}

// changed is the error of a domain that is not any more what the run was planned for.
func (s *Source) changed(format string, args ...any) error {
	return fail.WithHint(fmt.Errorf(format, args...), "nothing was backed up: run it again")
}

// StillIdle waits like AwaitIdle, just before the instant. It fails if a disk has other images
// than when AwaitIdle returned.
func (s *Source) StillIdle(ctx context.Context, targets []string) error {
	planned := *s
	if err := s.await(ctx, targets); err != nil {
		return err
	}
	now := s.chains
	s.seen, s.chains, s.ids = planned.seen, planned.chains, planned.ids
	return s.same(now)
}

// same returns an error if a disk has other images now than the run was planned for, or another
// size.
func (s *Source) same(now map[string][]qemuimg.Image) error {
	ids := identities(now)
	for target, chain := range now {
		planned := s.chains[target]
		equal := slices.EqualFunc(planned, chain, func(a, b qemuimg.Image) bool {
			return a.Path == b.Path && a.Format == b.Format && a.VirtualSize == b.VirtualSize
		})
		if !equal {
			return s.changed("disk %s of domain %s has other images now than when this run was planned, or another size: %s, before %s",
				target, s.name(), shown(chain), shown(planned))
		}
		for _, image := range chain {
			for _, path := range shutoff.Files(image) {
				if ids[path] != s.ids[path] {
					return s.changed("disk %s of domain %s: %s is another file now than when this run was planned", target, s.name(), path)
				}
			}
		}
	}
	return nil
}

// shown is a chain for people.
func shown(chain []qemuimg.Image) string {
	text := ""
	for i, image := range chain {
		if i > 0 {
			text += " on "
		}
		text += fmt.Sprintf("%s (%d bytes)", image.Path, image.VirtualSize)
	}
	return text
}

// identities are those of the files of chains, by path.
func identities(chains map[string][]qemuimg.Image) map[string]string {
	all := map[string]string{}
	for _, chain := range chains {
		for _, image := range chain {
			for _, path := range shutoff.Files(image) {
				all[path] = localimage.Identify(path)
			}
		}
	}
	return all
}
