package repository

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

// Pins lists the pins of a domain. damaged are the names of files that cannot be read as
// one: what they hold is unknown.
func (r *Repository) Pins(domain string) (pins []keep.Pin, damaged []string, err error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, nil, err
	}
	return keep.Pins(r.domainDir(domain))
}

// Pin keeps a listed point, and all that it needs, as they are, durably. The caller holds
// the lock only while it pins; Unpin takes it back.
func (l *Lock) Pin(id, reason string) (keep.Pin, error) { return l.pin(id, reason, nil) }

// PinFor is Pin for a domain that is going to run from the point.
func (l *Lock) PinFor(id string, runs keep.Runs) (keep.Pin, error) {
	return l.pin(id, fmt.Sprintf("domain %s runs from it, in %s", runs.Name, runs.Dir), &runs)
}

func (l *Lock) pin(id, reason string, runs *keep.Runs) (keep.Pin, error) {
	m, err := l.lockedPoint(id)
	if err != nil {
		return keep.Pin{}, err
	}
	return keep.AddPin(l.dir(), m, reason, runs)
}

// HoldPin keeps a pin for the process that is at work with it, until release is called. The error is
// of fail.Locked where another one is.
func (r *Repository) HoldPin(domain, pin string) (release func() error, err error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, err
	}
	f, err := keep.HoldPin(r.domainDir(domain), pin)
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fail.Errorf(fail.Locked, "wait until it has ended", "another process is at work with what runs from domain %s (pin %s)", domain, pin)
	}
	if err != nil {
		return nil, fmt.Errorf("pin %s of domain %s: %w", pin, domain, err)
	}
	return func() error { return filelock.Close(f) }, nil
}

// Unpin removes a pin of a domain, and the directory of pins with the last one; no error if
// it is gone.
func (r *Repository) Unpin(domain, pin string) error {
	if err := manifest.ValidDomain(domain); err != nil {
		return err
	}
	return keep.RemovePin(r.domainDir(domain), pin)
}

// Pinned returns a function that says ("pinned: …") by what a point of a domain is pinned, itself or
// through a point that needs it; "" if it is not. A pin that cannot be read, or whose point,
// or one that it needs, cannot be found, pins all.
func (r *Repository) Pinned(domain string) (by func(id string) string, err error) {
	pins, damaged, err := r.Pins(domain)
	if err != nil {
		return nil, err
	}
	if len(pins)+len(damaged) == 0 {
		return func(string) string { return "" }, nil
	}
	l, err := r.Lineage(domain)
	if err != nil {
		return nil, err
	}
	byPin, broken := map[string]string{}, l.Broken()
	all := ""
	for _, name := range damaged {
		all = fmt.Sprintf("pinned: %s cannot be read", filepath.Join(keep.PinsName, name))
	}
	for _, pin := range pins {
		text := fmt.Sprintf("pinned: %s (on %s)", pin.Reason, pin.Host)
		m, ok := l.Point(pin.Point)
		if !ok || m.Identity != pin.Identity || len(broken[pin.Point]) > 0 {
			all = text
			continue
		}
		for _, m := range l.Needs(pin.Point) {
			byPin[m.ID] = text
		}
	}
	return func(id string) string {
		if by := byPin[id]; by != "" {
			return by
		}
		return all
	}, nil
}
