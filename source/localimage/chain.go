package localimage

import (
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/source"
)

// Images are the images of a chain, the top one first, as a source identifies them. That has the
// name that the domain's XML gives it, as of a domain that runs: a volume by its pool.
func Images(name string, chain []qemuimg.Image) (all []source.Image) {
	for _, i := range chain {
		all = append(all, source.Image{Source: i.Path, ID: IdentifyImage(i.Path, i.Format), Bitmaps: i.BitmapNames(), Written: Written(i.Path, i.Format)})
	}
	if len(all) > 0 {
		all[0].Source = name
	}
	return all
}
