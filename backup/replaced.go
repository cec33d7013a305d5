package backup

import (
	"fmt"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
)

// replaced returns an explanation if a disk's image is not the one that the base was
// copied from, or "". A bitmap moves with its image: one of the same name in another
// image does not show what changed since the base. An image that has become a backing
// file of the present one (live external snapshot) still counts: libvirt ensures that the
// bitmap has no gap then. After a block copy or commit, or a migration of the storage,
// bitmaps may be correct, but this cannot be checked.
func replaced(base manifest.Disk, images []source.Image) string {
	if len(images) == 0 || base.Source == "" {
		return ""
	}
	for _, i := range images {
		if base.SourceID != "" && i.ID != "" {
			if i.ID == base.SourceID {
				return ""
			}
		} else if i.Source == base.Source {
			return ""
		}
	}
	if images[0].Source != base.Source {
		return fmt.Sprintf("its image was another one then (%s, now %s)", base.Source, images[0].Source)
	}
	return fmt.Sprintf("its image %s was replaced by another file since", base.Source)
}
