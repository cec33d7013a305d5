package backup

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fileid"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// image is what a disk is stored in: where, and what tells it from another one
// at the same place.
type image struct {
	Source string
	ID     string // "" unknown
}

// imagesOf identifies the images of a disk, the top one first, then its backing
// files.
func imagesOf(d xml.Disk) []image {
	var all []image
	for _, source := range append([]string{d.Source}, d.Backing...) {
		all = append(all, image{source, identify(source)})
	}
	return all
}

// identify returns what tells a file or device from others that have been, or
// will be, at the same path: of a file its inode and time of birth (package
// fileid), of a device of the device mapper (LVM) its UUID. "" is for what cannot
// be told: paths alone count then.
func identify(path string) string {
	info, err := os.Stat(path) // a symbolic link is where libvirt goes, too
	if err != nil {
		return ""
	}
	if info.Mode().IsRegular() {
		id, err := fileid.Of(path)
		if err != nil {
			return ""
		}
		return "file:" + id.String()
	}
	device, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uuid, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/dm/uuid", unix.Major(device.Rdev), unix.Minor(device.Rdev)))
	if err != nil || len(uuid) < 2 {
		return ""
	}
	return "dm:" + string(uuid[:len(uuid)-1])
}

// replaced says that a disk's image is not the one that the base was copied
// from, or "". A bitmap travels with its image: one of the same name in another
// image says nothing of what changed since the base. An image that has become a
// backing file of the present one (live external snapshot) is still there; that
// the bitmap has no gap then, libvirt sees to. After a block copy or commit, or
// a migration of the storage, bitmaps may be right, but nobody knows.
func replaced(base manifest.Disk, images []image) string {
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
