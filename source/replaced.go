package source

import (
	"fmt"
	"slices"
	"strings"
)

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
	if find(then, now) >= 0 {
		return ""
	}
	if now[0].Source != then.Source {
		return fmt.Sprintf("its image was another one then (%s, now %s)", then.Source, now[0].Source)
	}
	return fmt.Sprintf("its image %s was replaced by another file since", then.Source)
}

// find returns where an image is among others, or -1.
func find(then Image, now []Image) int {
	return slices.IndexFunc(now, func(i Image) bool {
		if then.ID != "" && i.ID != "" {
			return i.ID == then.ID
		}
		return i.Source == then.Source
	})
}

// Rebased returns an explanation if the image that the base was copied from has other backing files
// now, or others have written to one, or "". below are the [BackingIDs] of then, the lowest one last;
// nil if they are unknown.
//
// What the disk reads from a backing file changes with the file, and no bitmap shows that: none of
// it is written by the guest. Images above that of the base (live external snapshot) do not matter.
// A block commit or pull below it changes no content, but this cannot be checked.
func Rebased(then Image, below []string, now []Image) string {
	at := find(then, now)
	if below == nil || at < 0 {
		return ""
	}
	backing := now[at+1:]
	if len(backing) != len(below) {
		return fmt.Sprintf("its image %s has other backing files than then (%d then, %d now)", now[at].Source, len(below), len(backing))
	}
	for n, i := range backing {
		id, written, timed := strings.Cut(below[n], writtenMark)
		_, writtenNow, timedNow := strings.Cut(i.backingID(), writtenMark)
		switch {
		case i.ID == "" || id == "":
		case i.ID != id:
			return fmt.Sprintf("its backing file %s is not the one of then", i.Source)
		case timed && timedNow && writtenNow != written:
			return fmt.Sprintf("its backing file %s was written to since", i.Source)
		}
	}
	return ""
}

// Lost returns an explanation if the image that the base was copied from is a backing file by now, and
// has no bitmap of that name any more, or "". It had one when the overlay got its own; what was
// written before that is in no other. libvirt and QEMU do not notice: for them the checkpoint
// looks as if it had been made with the overlay on top.
func Lost(then Image, now []Image, bitmap string) string {
	for n, i := range now {
		if n > 0 && then.ID != "" && i.ID == then.ID && i.Bitmaps != nil && !slices.Contains(i.Bitmaps, bitmap) {
			return fmt.Sprintf("image %s has lost the bitmap", i.Source)
		}
	}
	return ""
}
