package backup

import (
	"fmt"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// hintIfIncomplete adds to an error of a domain that is shut off how it goes on, if it is one that ran
// from a point and whose data is not all there: its disks can be read only while it runs, and what
// starts another domain (virsh start) would start it without the server that it reads from.
func (r *run) hintIfIncomplete(err error) error {
	if err == nil || !r.off {
		return err
	}
	names, _ := r.repo.Domains() // what cannot be read gives no hint
	for _, name := range names {
		pins, _, _ := r.repo.Pins(name)
		for _, p := range pins {
			if p.Runs != nil && p.Runs.UUID == r.domain.Domain.UUID() {
				return fail.WithHint(fmt.Errorf("domain %s ran from %s of domain %s, and its data is not all there: %w", r.Domain, p.Point, name, err),
					"virtbackup restore %s --instant --to %s --resume starts it, and goes on; --abandon takes it away", manifest.ShellWord(name), manifest.ShellWord(p.Runs.Dir))
			}
		}
	}
	return err
}
