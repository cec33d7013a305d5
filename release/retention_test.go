package release

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// locked does something to the domain's points under its lock.
func (s *site) locked(do func(*repository.Lock) error) {
	s.t.Helper()
	lock, err := s.repo.Lock("vm1")
	if err == nil {
		err = errors.Join(do(lock), lock.Unlock())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Points that must stay, or of which it is unknown, keep all from being removed, and are
// checked before a checkpoint is.
func TestReleaseOfWhatMustStay(t *testing.T) {
	isProtected := func(err error) bool {
		var protected *repository.ProtectedError
		return errors.As(err, &protected)
	}
	isDamaged := func(err error) bool {
		var damaged *damage.Error
		return errors.As(err, &damaged)
	}
	for name, tt := range map[string]struct {
		prepare func(*repository.Lock) error
		refused func(error) bool
	}{
		"protected": {func(l *repository.Lock) error { _, err := l.Protect("check1", time.Time{}, ""); return err }, isProtected},
		"pinned":    {func(l *repository.Lock) error { _, err := l.Pin("check1", "a guest"); return err }, isProtected},
		"unknown": {func(l *repository.Lock) error {
			return os.WriteFile(filepath.Join(l.Repository().DomainDir("vm1"), keep.ProtectedName), nil, 0o600)
		}, isDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			all := s.left()
			s.locked(tt.prepare)
			for _, request := range []Request{{Points: true}, {Points: true, DryRun: true}} {
				if _, err := s.release(request); !tt.refused(err) {
					t.Errorf("%+v: %v", request, err)
				}
			}
			if got := s.left(); got != all {
				t.Errorf("left %q, want %q", got, all)
			}
			if _, err := s.release(Request{}); err != nil { // the points stay
				t.Error(err)
			}
		})
	}
}

// Hidden points go with all others, and are not there for those who name one.
func TestReleaseOfHiddenPoints(t *testing.T) {
	s := newSite(t)
	s.locked(func(l *repository.Lock) error {
		return errors.Join(l.Hide("check1", "policy"), l.Hide("check3", "policy"))
	})
	var hidden *lineage.HiddenError
	if _, err := s.release(Request{Points: true, Point: "check3"}); !errors.As(err, &hidden) || !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("a hidden point: %v", err)
	}
	var needed *lineage.NeededError
	if _, err := s.release(Request{Points: true, Point: "check2"}); !errors.As(err, &needed) || !slices.Equal(needed.By, []string{"check3"}) {
		t.Errorf("a point that a hidden one needs: %v", err)
	}
	result, err := s.release(Request{Points: true})
	if err != nil || strings.Join(result.Points, " ") != "check3 check2 check1" {
		t.Errorf("released %q, %v", result.Points, err)
	}
	if _, err := os.Lstat(s.repo.DomainDir("vm1")); !os.IsNotExist(err) {
		t.Errorf("the directory stays: %v", err)
	}
}

// Nothing is removed below those who read.
func TestReleaseBesideReaders(t *testing.T) {
	s := newSite(t)
	all := s.left()
	defer func(wait time.Duration) { readersWait = wait }(readersWait)
	readersWait = 0
	err := s.repo.Read(context.Background(), "vm1", func() error {
		_, err := s.release(Request{Points: true})
		return err
	})
	var readers *repository.ReadersError
	if !errors.As(err, &readers) || !fail.Is(err, fail.Locked) || s.left() != all {
		t.Errorf("%v, left %q", err, s.left())
	}
	if _, err := s.release(Request{Points: true}); err != nil || s.left() != " | theirs" {
		t.Errorf("behind them: %v, left %q", err, s.left())
	}
}
