// Package diskuse finds out which domains use a file or a block device as a disk.
package diskuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/xml"
)

// Use is a file or block device that a disk of a domain is in.
type Use struct {
	Domain guest.Domain
	Target string // of the disk
	Path   string
	Below  bool // it is a backing file of the disk, or a part of one
}

// Each calls found for the files and block devices that all disks of all domains of a host are
// in: as the domains are, and as they will be when they start next. Some may come twice. What
// cannot be found out is left out: an image that is not there cannot be overwritten. An error of
// found ends it. log gets what is not known of an image.
func Each(ctx context.Context, host guest.Host, log *slog.Logger, found func(Use) error) error {
	names, err := host.Domains()
	if err != nil {
		return err
	}
	for _, name := range names {
		err := ofDomain(ctx, host, name, log, found)
		if err != nil && !errors.Is(err, hypervisor.ErrNoDomain) { // undefined meanwhile
			return err
		}
	}
	return nil
}

func ofDomain(ctx context.Context, host guest.Host, name string, log *slog.Logger, found func(Use) error) error {
	domain, err := host.Domain(name)
	if err != nil {
		return err
	}
	for _, read := range []func() (string, error){domain.XML, domain.InactiveXML} {
		doc, err := read()
		if err != nil {
			return err
		}
		described, err := xml.ParseDomain(doc)
		if err != nil {
			return err
		}
		for _, d := range described.Disks {
			own, below := filesOf(ctx, domain, d, log)
			for i, path := range append(own, below...) {
				if err := found(Use{domain, d.Target, path, i >= len(own)}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// filesOf are the files of a disk's top image, and those of its backing files, as far as they
// can be found out.
func filesOf(ctx context.Context, domain guest.Domain, d xml.Disk, log *slog.Logger) (own, below []string) {
	path := d.Source
	if d.SourceType == "volume" {
		pool, volume, _ := strings.Cut(d.Source, "/")
		var err error
		if path, err = domain.VolumePath(pool, volume); err != nil {
			return nil, nil // it is not there
		}
	}
	if !filepath.IsAbs(path) { // on a network
		return nil, nil
	}
	images, err := chainOf(ctx, path, d.Format)
	if err != nil {
		log.Debug(fmt.Sprintf("the backing files of %s are taken from the XML of domain %s: %v", path, domain.Name(), err))
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
