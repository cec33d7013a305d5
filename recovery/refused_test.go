package recovery

import (
	"errors"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/hypervisor"
)

// What libvirt refuses is left for later. If another job holds the domain nothing more is
// tried, as libvirt waits 30 s each time. Errors that are not about the checkpoint stay
// errors.
func TestIfNotRefused(t *testing.T) {
	plain := errors.New("a bug")
	refused := func(kind error) error { return &hypervisor.Error{Kind: kind, Message: "no"} }
	for _, tt := range []struct {
		err         error
		later, busy bool
	}{
		{nil, false, false},
		{plain, false, false},
		{refused(nil), true, false}, // QEMU's words
		{refused(hypervisor.ErrNotRunning), true, false},
		{hypervisor.ErrNotRunning, true, false},
		{refused(hypervisor.ErrBusy), true, true},
		{refused(hypervisor.ErrUnreachable), false, false},
		{refused(hypervisor.ErrNoDomain), false, false},
	} {
		s := &recoverer{}
		err := s.ifNotRefused(func() error { return tt.err })
		var later *laterError
		if errors.As(err, &later) != tt.later || !tt.later && !errors.Is(err, tt.err) {
			t.Errorf("%v: got %v", tt.err, err)
		}
		if off := errors.Is(tt.err, hypervisor.ErrNotRunning); later != nil && strings.HasSuffix(later.why, "; a run while the domain is up does it") != off {
			t.Errorf("%v: got %v", tt.err, later)
		}
		asked := false
		again := s.ifNotRefused(func() error { asked = true; return nil })
		if asked == tt.busy || errors.As(again, &later) != tt.busy {
			t.Errorf("after %v: asked again %v, %v", tt.err, asked, again)
		}
	}
}

// A checkpoint is lost only if libvirt's error is about the checkpoint.
func TestRefusal(t *testing.T) {
	for _, kind := range []error{hypervisor.ErrUnreachable, hypervisor.ErrNoDomain, hypervisor.ErrNotRunning, hypervisor.ErrBusy, nil} {
		var gone *goneError
		if err := refusal(&hypervisor.Error{Kind: kind, Message: "no"}); errors.As(err, &gone) != (kind == nil) {
			t.Errorf("%v: got %v", kind, err)
		}
	}
}
