package prune

import (
	"path/filepath"

	"github.com/virtbackup/virtbackup/keep"
)

// warnOfPins warns of each pin that cannot be read. Such a pin holds all points, and it does
// so until somebody deletes it.
func (r *run) warnOfPins() {
	_, damaged, err := r.repo.Pins(r.domain)
	if err != nil {
		return // gather has read them
	}
	for _, name := range damaged {
		r.warn("%s of domain %s cannot be read, so nothing is removed: if nothing runs from its points, delete the file",
			filepath.Join(r.repo.DomainDir(r.domain), keep.PinsName, name), r.domain)
	}
}
