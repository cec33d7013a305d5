package pull

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/localimage"
	"github.com/virtbackup/virtbackup/xml"
)

// Inspect fills in size, allocation and images of the disks that can be copied.
func (s *Source) Inspect(disks []xml.Disk) ([]source.Disk, error) {
	all, pid := make([]source.Disk, len(disks)), s.pid()
	for i, d := range disks {
		all[i].Disk = d
		if d.Unfit() != "" {
			continue
		}
		size, allocated, err := s.d.Domain.Allocation(d.Target)
		if err != nil {
			return nil, err
		}
		all[i].Size, all[i].Allocated, all[i].Images = size, allocated, s.imagesOf(d, pid)
	}
	s.findOldImages(all)
	return all, nil
}

// Written returns how many bytes of a disk's image have been written to: space that
// is only reserved (preallocation=falloc, fallocate(2)) reads as zeros and is not
// copied. ok is false if that is unknown.
func (s *Source) Written(d xml.Disk) (bytes int64, ok bool) {
	if d.SourceType != "file" {
		return 0, false
	}
	bytes, err := localimage.DataBytes(d.Source)
	return bytes, err == nil
}

// imagesOf identifies the images of a disk, the top one first, then its backing
// files. pid is QEMU's process, 0 if it is not here.
func (s *Source) imagesOf(d xml.Disk, pid int) []source.Image {
	var all []source.Image
	formats := append([]string{d.Format}, d.BackingFormats...)
	for n, path := range append([]string{d.Source}, d.Backing...) {
		id := localimage.IdentifyImage(path, formats[n])
		for _, file := range []string{path, localimage.DataFile(path, formats[n])} {
			if pid == 0 || file == "" || !localimage.Deleted(pid, file) {
				continue
			}
			// What QEMU reads is not the file that the domain will have when it starts next: it equals
			// no image of another point, so that both are compared.
			id = "replaced:" + manifest.NewIdentity()
			s.warn(fmt.Sprintf("disk %s: %s was replaced or removed while the domain runs; QEMU still uses the file that it has opened, and its next start does not", d.Target, file))
		}
		all = append(all, source.Image{Source: path, ID: id, Written: localimage.Written(path, formats[n])})
	}
	if len(d.Backing) > 0 {
		s.findBitmaps(d, all[1:])
	}
	return all
}

// pid is the process of the domain's QEMU, where it is on this host, else 0 (virPidFileConstructPath).
func (s *Source) pid() int {
	text, err := os.ReadFile(filepath.Join("/run/libvirt/qemu", s.d.Domain.Name()+".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// infoTime bounds qemu-img info, which takes some 20 ms.
const infoTime = 30 * time.Second

// findBitmaps finds the names of the bitmaps in the backing files of a disk. They are in the
// files while the domain runs, too: QEMU stores them when a snapshot makes an image a backing file.
// What cannot be found out stays unknown.
func (s *Source) findBitmaps(d xml.Disk, below []source.Image) {
	ctx, cancel := context.WithTimeout(context.Background(), infoTime)
	defer cancel()
	chain, err := qemuimg.Chain(ctx, d.Source, d.Format, true)
	if err != nil {
		s.Log.Debug(fmt.Sprintf("which bitmaps the backing files of disk %s have is unknown: %v", d.Target, err))
		return
	}
	for i := range below {
		for _, image := range chain[1:] {
			if below[i].ID != "" && localimage.IdentifyImage(image.Path, image.Format) == below[i].ID {
				below[i].Bitmaps = image.BitmapNames()
			}
		}
	}
}

// findOldImages finds qcow2 images of version 2, which cannot have bitmaps: libvirt's XML
// does not show the version, and one of them would fail the whole checkpoint. If this
// process cannot read the image (a volume of a pool, a disk over the network) it asks QEMU,
// but only then, as the query taints the domain. An unknown version is assumed to be 3, the
// default of the last ten years.
func (s *Source) findOldImages(disks []source.Disk) {
	var hidden []*source.Disk
	for i := range disks {
		d := &disks[i]
		if d.Unfit() != "" || d.Format != "qcow2" {
			continue
		}
		switch version, err := qcow2Version(d.Disk); {
		case err != nil:
			hidden = append(hidden, d)
		case version == 2:
			d.Format = source.QCOW2Version2
		}
	}
	if len(hidden) == 0 {
		return
	}
	old, err := s.d.Domain.OldImages()
	if err != nil {
		s.Log.Debug(err.Error())
	}
	for _, d := range hidden {
		if slices.Contains(old, d.FormatNode()) {
			d.Format = source.QCOW2Version2
		}
	}
}

// qcow2Version reads the version from the header of an image on this host.
func qcow2Version(d xml.Disk) (int, error) {
	if d.SourceType != "file" && d.SourceType != "block" {
		return 0, fmt.Errorf("the image of disk %s is not on this host", d.Target)
	}
	f, err := os.Open(d.Source)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	h, err := qcow2.ReadHeader(f)
	return int(h.Version), err
}
