package pull

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// Inspect fills in size, allocation and images of the disks that can be copied.
func (s *Source) Inspect(disks []xml.Disk) ([]source.Disk, error) {
	all := make([]source.Disk, len(disks))
	for i, d := range disks {
		all[i].Disk = d
		if d.Unfit() != "" {
			continue
		}
		size, allocated, err := s.d.Domain.Allocation(d.Target)
		if err != nil {
			return nil, err
		}
		all[i].Size, all[i].Allocated, all[i].Images = size, allocated, imagesOf(d)
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
	bytes, err := dataBytes(d)
	return bytes, err == nil
}

// imagesOf identifies the images of a disk, the top one first, then its backing
// files.
func imagesOf(d xml.Disk) []source.Image {
	var all []source.Image
	for _, path := range append([]string{d.Source}, d.Backing...) {
		all = append(all, source.Image{Source: path, ID: source.Identify(path)})
	}
	return all
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

// dataBytes counts the bytes of an image file that are not holes; unwritten
// space counts as a hole (lseek(2), SEEK_DATA).
func dataBytes(d xml.Disk) (n int64, err error) {
	f, err := os.Open(d.Source)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for end := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if err == unix.ENXIO { //nolint:errorlint // a bare errno: no more data
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return 0, err
		}
		n += end - start
	}
}
