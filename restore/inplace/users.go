package inplace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/restore/device"
	"github.com/virtbackup/virtbackup/xml"
)

// fileKey is what a file or a block device is, whatever its path.
type fileKey struct {
	device bool
	a, b   uint64
}

// keyOf follows symbolic links. ok is false if there is nothing.
func keyOf(path string) (key fileKey, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return fileKey{}, false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileKey{}, false
	}
	if info.Mode()&os.ModeDevice != 0 {
		return fileKey{device: true, a: s.Rdev}, true
	}
	return fileKey{a: s.Dev, b: s.Ino}, true
}

// refuseOtherUsers refuses images that another disk uses, of this domain or another, as its
// own or as a backing file: what is written to them would be damage there.
func (r *run) refuseOtherUsers(ctx context.Context) error {
	mine := map[fileKey]*disk{}
	for _, d := range r.disks {
		for _, path := range shutoff.Files(d.images[0]) {
			key, ok := keyOf(path)
			if other := mine[key]; ok && other != nil {
				return fail.Errorf(fail.Usage, "", "disks %s and %s of domain %s are the same file %s", other.Target, d.Target, r.Domain, path)
			}
			mine[key] = d
		}
	}
	names, err := r.Host.Domains()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.refuseUser(ctx, name, mine); err != nil {
			return err
		}
	}
	return nil
}

// refuseUser looks at the disks of one domain, as it is and as it will start next time.
func (r *run) refuseUser(ctx context.Context, name string, mine map[fileKey]*disk) error {
	domain, err := r.Host.Domain(name)
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return nil // undefined meanwhile
	}
	if err != nil {
		return err
	}
	for _, read := range []func() (string, error){domain.XML, domain.InactiveXML} {
		doc, err := read()
		if errors.Is(err, hypervisor.ErrNoDomain) {
			return nil
		}
		if err != nil {
			return err
		}
		described, err := xml.ParseDomain(doc)
		if err != nil {
			return err
		}
		for _, d := range described.Disks {
			if err := r.refuseUse(ctx, domain, d, mine); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) refuseUse(ctx context.Context, domain guest.Domain, d xml.Disk, mine map[fileKey]*disk) error {
	own, below := r.filesOf(ctx, domain, d)
	for i, path := range append(own, below...) {
		used := usedBy(path, mine)
		if used == nil || domain.UUID() == r.domain.UUID() && d.Target == used.Target && i < len(own) {
			continue
		}
		return fail.Errorf(fail.Usage, r.without(used.Target), "disk %s of domain %s (%s) is used by disk %s of domain %s, too",
			used.Target, r.Domain, used.Path, d.Target, domain.Name())
	}
	return nil
}

// usedBy is the disk that a path leads to, or shares bytes with: a partition of it.
func usedBy(path string, mine map[fileKey]*disk) *disk {
	key, ok := keyOf(path)
	if !ok {
		return nil
	}
	if d := mine[key]; d != nil || !key.device {
		return d
	}
	for _, d := range mine {
		if d.device && device.Same(d.Path, path) {
			return d
		}
	}
	return nil
}

// filesOf are the files of a disk's top image, and those of its backing files, as far as they
// can be found out.
func (r *run) filesOf(ctx context.Context, domain guest.Domain, d xml.Disk) (own, below []string) {
	path := d.Source
	if d.SourceType == "volume" {
		pool, volume, _ := strings.Cut(d.Source, "/")
		var err error
		if path, err = domain.VolumePath(pool, volume); err != nil {
			return nil, nil // it is not there
		}
	}
	if !filepath.IsAbs(path) {
		return nil, nil
	}
	images, err := chainOf(ctx, path, d.Format)
	if err != nil {
		r.Log.Debug(fmt.Sprintf("the backing files of %s are taken from the XML of domain %s: %v", path, domain.Name(), err))
		return []string{path}, d.Backing
	}
	for _, i := range images[1:] {
		below = append(below, shutoff.Files(i)...)
	}
	return append(shutoff.Files(images[0]), path), append(below, d.Backing...)
}

// chainOf describes an image with its backing files. For a qcow2 image that has none, or
// another format that cannot have one, its header is enough: a host may have hundreds of
// domains, and qemu-img takes some 20 ms for each disk.
func chainOf(ctx context.Context, path, format string) ([]qemuimg.Image, error) {
	if format == "raw" {
		return []qemuimg.Image{{Path: path}}, nil
	}
	if format == "qcow2" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		header, err := qcow2.ReadHeader(f)
		if err = errors.Join(err, f.Close()); err == nil && header.BackingFile == "" && !header.ExternalData() {
			return []qemuimg.Image{{Path: path}}, nil
		}
	}
	return qemuimg.Chain(ctx, path, format, true)
}
