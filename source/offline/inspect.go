package offline

import (
	"os"

	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/localimage"
	"github.com/virtbackup/virtbackup/xml"
)

// Inspect fills in size, allocation and images of the disks to be copied.
func (s *Source) Inspect(disks []xml.Disk) ([]source.Disk, error) {
	all := make([]source.Disk, len(disks))
	for i, d := range disks {
		all[i].Disk = d
		chain, ok := s.chains[d.Target]
		if !ok { // left out
			continue
		}
		all[i].Size = chain[0].VirtualSize
		if q := chain[0].QCOW2; q != nil && q.Compat == "0.10" {
			all[i].Format = source.QCOW2Version2
		}
		all[i].Images = localimage.Images(d.Source, chain)
		for _, image := range chain {
			all[i].Allocated += s.allocated(image.Path, image.ActualSize, image.VirtualSize)
		}
		all[i].Allocated = min(all[i].Allocated, all[i].Size)
	}
	return all, nil
}

// allocated is how much of an image may be data: of a device that is all of it.
func (s *Source) allocated(path string, actual, virtual int64) int64 {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return actual
	}
	return virtual
}

// Written returns how many bytes of the files of a disk have been written to: space that is only
// reserved reads as zeros and is not copied. ok is false if that is unknown.
func (s *Source) Written(d xml.Disk) (bytes int64, ok bool) {
	for _, image := range s.chains[d.Target] {
		for _, path := range shutoff.Files(image) {
			n, err := localimage.DataBytes(path)
			if err != nil {
				return 0, false
			}
			bytes += n
		}
	}
	return bytes, len(s.chains[d.Target]) > 0
}

// CheckSpace has nothing to refuse: no scratch files are needed. Room for bitmaps is looked for
// where each is added.
func (s *Source) CheckSpace(int64) error { return nil }

// Room reserves nothing.
func (s *Source) Room(string, int64) source.Room { return source.Room{} }
