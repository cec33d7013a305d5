package source

import "fmt"

// Replaced returns an explanation if a disk's image is not the one that the base was
// copied from, or "". now are the images that the disk is stored in, backing files last.
//
// A bitmap moves with its image: one of the same name in another image does not show what
// changed since the base. An image that has become a backing file of the present one (live
// external snapshot) still counts: libvirt ensures that the bitmap has no gap then. After a
// block copy or commit, or a migration of the storage, bitmaps may be correct, but this
// cannot be checked.
func Replaced(then Image, now []Image) string {
	if len(now) == 0 || then.Source == "" {
		return ""
	}
	for _, i := range now {
		if then.ID != "" && i.ID != "" {
			if i.ID == then.ID {
				return ""
			}
		} else if i.Source == then.Source {
			return ""
		}
	}
	if now[0].Source != then.Source {
		return fmt.Sprintf("its image was another one then (%s, now %s)", then.Source, now[0].Source)
	}
	return fmt.Sprintf("its image %s was replaced by another file since", then.Source)
}
