package manifest

import (
	"path"
	"slices"
	"strings"
)

// MaxJoined is how long, in bytes, the name of an image may get that QEMU joins
// along a chain. The kernel takes PATH_MAX, 4096 bytes with the NUL at the end,
// and QEMU's own buffers (bs->filename, bs->backing_file) hold as much. 256 bytes
// are kept back for a repository that is moved to a deeper path, as one that is
// copied to another host or below a mount point for a restore is: beyond the
// limit no point of the chain could be opened there.
const MaxJoined = 4095 - 256

// Chain is a point and those that it is chained onto, nearest first, as far as they are among
// points, which are those of one domain.
func Chain(points []Manifest, m Manifest) []Manifest {
	chain := []Manifest{m}
	for m.Parent != "" {
		i := slices.IndexFunc(points, func(o Manifest) bool { return o.ID == m.Parent })
		if i < 0 {
			break
		}
		m = points[i] // the loop ends: Validate lets a parent's number only go down
		chain = append(chain, m)
	}
	return chain
}

// ChainImages lists the images that a disk of a point needs, its own first, as
// paths below the domain's directory (check3/vda.qcow2). It ends early where
// points, which are those of one domain, lack one of them.
func ChainImages(points []Manifest, id, target string) []string {
	var images []string
	image := target + ImageSuffix
	for id != "" {
		i := slices.IndexFunc(points, func(m Manifest) bool { return m.ID == id })
		if i < 0 {
			return images
		}
		d := slices.IndexFunc(points[i].Disks, func(d Disk) bool { return d.Image == image })
		if d < 0 {
			return images
		}
		images = append(images, path.Join(id, image))
		// The loop ends: Validate lets a parent's number only go down.
		id, image, _ = points[i].Disks[d].ParentImage()
	}
	return images
}

// JoinedLength is the length in bytes of the longest name that QEMU makes of the
// images of a chain, paths below dir, the topmost first. It does not shorten what
// it joins: to the directory of one image it adds the backing file name in it
// (path_combine and bdrv_make_absolute_filename in block.c), so the name of the
// last is
//
//	DIR/check3/../check2/../check1/vda.qcow2
func JoinedLength(dir string, images []string) int {
	longest, above := 0, len(dir)+1 // of all but the image's own name
	for i, image := range images {
		if i > 0 {
			above += len("../")
		}
		longest = max(longest, above+len(image))
		above += strings.LastIndexByte(image, '/') + 1
	}
	return longest
}
