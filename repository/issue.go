package repository

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// Instants returns what the repository has issued for the locked domain. A damaged
// list counts as an empty one, and damage says what is wrong with it: then nothing in
// libvirt is known to be ours, and disks are compared instead.
func (l *Lock) Instants() (is instants.List, damage, err error) {
	is, err = instants.Read(l.dir())
	var bad *instants.DamagedError
	if errors.As(err, &bad) {
		return instants.List{}, bad, nil
	}
	return is, nil, err
}

// NextNumber is the number of the next point of the domain: one more than any that
// the repository knows to have been used.
func (l *Lock) NextNumber() (int, error) {
	is, _, err := l.Instants()
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(l.dir())
	if err != nil {
		return 0, fmt.Errorf("next number of domain %s: %w", l.domain, err)
	}
	highest := is.Highest
	for _, e := range entries {
		name := strings.TrimPrefix(strings.TrimPrefix(e.Name(), replacementPrefix), partialPrefix)
		if _, n, err := manifest.ParsePointID(name); err == nil {
			highest = max(highest, n)
		}
	}
	return highest + 1, nil
}

// Issue writes an instant down, with its number, on stable storage: nothing of it may
// be in libvirt before. Time, Place and Process are filled in.
func (l *Lock) Issue(i instants.Instant) (instants.Instant, error) {
	_, n, err := manifest.ParsePointID(i.Point)
	if err == nil && !manifest.ValidIdentity(i.Identity) {
		err = fmt.Errorf("%q is no identity", i.Identity)
	}
	if err != nil {
		return i, fmt.Errorf("issue an identity: %w", err)
	}
	i.Time, i.Place = time.Now().UTC(), description.PlaceText(l.repo.place)
	if i.Process, err = instants.Self(); err != nil {
		return i, fmt.Errorf("issue an identity: %w", err)
	}
	if err := instants.PutDamagedAside(l.dir()); err != nil {
		return i, fmt.Errorf("issue an identity: %w", err)
	}
	err = l.changeInstants(func(is *instants.List) error {
		if n <= is.Highest {
			return fmt.Errorf("the number of %s has been used before, the highest is %d", i.Point, is.Highest)
		}
		is.Highest = n
		is.Issued = append(is.Issued, i)
		return nil
	})
	if err == nil {
		// The run that made the domain's directory may have died before a point
		// was sealed, which makes its name durable (see sealSteps).
		err = localfile.SyncDir(l.repo.dir)
	}
	if err != nil {
		return i, fmt.Errorf("issue an identity for %s of domain %s: %w", i.Point, l.domain, err)
	}
	return i, nil
}

// SetInstantState records what may be done with the checkpoint of an identity.
func (l *Lock) SetInstantState(identity string, state instants.State) error {
	return l.changeInstants(func(is *instants.List) error {
		for n := range is.Issued {
			if is.Issued[n].Identity == identity {
				is.Issued[n].State = state
			}
		}
		return nil
	})
}

// DropInstant forgets an identity. Nothing of it may be left: libvirt has confirmed
// that its checkpoint is gone.
func (l *Lock) DropInstant(identity string) error {
	return l.changeInstants(func(is *instants.List) error {
		is.Issued = slices.DeleteFunc(is.Issued, func(i instants.Instant) bool { return i.Identity == identity })
		return nil
	})
}

// changeInstants replaces instants.json by a changed one, on stable storage. One that is
// damaged is an error.
func (l *Lock) changeInstants(change func(*instants.List) error) error {
	if err := l.check(); err != nil {
		return err
	}
	return instants.Change(l.dir(), change)
}
