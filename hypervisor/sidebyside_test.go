package hypervisor

import (
	"testing"

	"golang.org/x/sync/errgroup"
)

// TestSideBySide: a run of another repository begins and ends its jobs while this one asks for the job. That never fails.
// Listing checkpoints at the same time is not tested: it crashes libvirtd 9.0.0 within seconds.
func TestSideBySide(t *testing.T) {
	g := newGuest(t)
	other, err := connect(t).Domain(g.Name())
	must(t, err)
	done := make(chan struct{})
	var asking errgroup.Group
	asking.Go(func() error {
		for {
			select {
			case <-done:
				return nil
			default:
			}
			if _, err := other.RunningJob(); err != nil {
				return err
			}
		}
	})
	for range 15 {
		if err := g.begin(t, g.job("vda")); err != nil {
			t.Fatal(err)
		}
		g.end(t)
	}
	close(done)
	must(t, asking.Wait())
}
