package backup

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// offSource is the source of a domain that is off, up to its first method.
type offSource struct {
	Source
	awaitIdle func() error
}

func (s offSource) AwaitIdle(context.Context, []string) (xml.Domain, error) {
	return xml.Domain{}, s.awaitIdle()
}
func (s offSource) Gone() bool { return true }

// off returns what a run of a domain that is off works with.
func (s *fakeSite) off(awaitIdle func() error) (deps Deps, opened *int) {
	deps, opened = s.deps(), new(int)
	deps.Off = func(*guest.LockedDomain, source.Options, func(string)) Source {
		*opened++
		return offSource{awaitIdle: awaitIdle}
	}
	return deps, opened
}

// A domain that is started before the instant is backed up as one that runs; what was said before
// that is in the report.
func TestStartedMeanwhile(t *testing.T) {
	s := newFakeSite(t)
	s.domain.ShutDown()
	deps, opened := s.off(func() error {
		s.domain.Start()
		return fmt.Errorf("domain vm1 %w", source.ErrStarted)
	})
	result, err := Run(t.Context(), deps, s.request(manifest.KindFull))
	if err != nil || *opened != 1 || len(s.points()) != 1 || result.Point.Kind != manifest.KindFull {
		t.Errorf("%v, opened %d times, points %q", err, *opened, s.points())
	}
}

// It begins again only for that, and only once.
func TestNotBegunAgain(t *testing.T) {
	for _, want := range []error{source.ErrStarted, hypervisor.ErrBusy} {
		s := newFakeSite(t)
		s.domain.ShutDown()
		deps, opened := s.off(func() error { return want })
		_, err := Run(t.Context(), deps, s.request(manifest.KindFull))
		if tries := map[bool]int{true: 2, false: 1}[want == source.ErrStarted]; !errors.Is(err, want) || *opened != tries || len(s.points()) > 0 {
			t.Errorf("%v, opened %d times, want %d; points %q", err, *opened, tries, s.points())
		}
	}
}

// Without a source for it a domain that is off is refused.
func TestNoSourceForADomainThatIsOff(t *testing.T) {
	s := newFakeSite(t)
	s.domain.ShutDown()
	if _, err := Run(t.Context(), s.deps(), s.request(manifest.KindFull)); !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Error(err)
	}
}
