package offline

import (
	"fmt"

	"github.com/virtbackup/virtbackup/xml"
)

// warnOfSaved warns of disks that the domain will have when it goes on from its managed save, and that
// are not those of its configuration, which are read: they were attached, or replaced, while it ran.
func (s *Source) warnOfSaved() error {
	doc, err := s.d.Domain.SavedXML()
	if err != nil || doc == "" {
		return err
	}
	saved, err := xml.ParseDomain(doc)
	if err != nil {
		return err
	}
	for _, d := range saved.Disks {
		if d.Unfit() != "" {
			continue
		}
		switch now, ok := s.seen.Disk(d.Target); {
		case !ok:
			s.warn(fmt.Sprintf("disk %s (%s) is not in the point: the domain is saved, and goes on with this disk, but its configuration does not have it; a backup while it runs has it",
				d.Target, d.Source))
		case now.Source != d.Source || now.Format != d.Format:
			s.warn(fmt.Sprintf("disk %s is %s in the point, as in the domain's configuration: the domain is saved, and goes on with %s; a backup while it runs has that",
				d.Target, now.Source, d.Source))
		}
	}
	return nil
}
