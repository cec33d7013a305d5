package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/device"
	"github.com/virtbackup/virtbackup/xml"
)

// domainsWith returns the domains that have a block device among their disks, running or not.
// Where libvirt cannot be asked, that is said: what runs keeps the device open all the same.
func domainsWith(c *cli.Context, request restore.Request, path string) (users []string, err error) {
	conn, err := connect(c)
	if err != nil {
		request.Log.Warn(fmt.Sprintf("whether a domain that is shut off uses %s is unknown: %v", path, err))
		return nil, nil
	}
	defer join(&err, conn.Close)
	names, err := conn.Domains()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		used, err := hasDevice(c.Context, conn, name, path)
		if fail.Is(err, fail.NotFound) { // undefined meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		if used {
			users = append(users, "it is a disk of domain "+name)
		}
	}
	return users, nil
}

// hasDevice tells whether a domain has a block device among its disks, now or when it is
// started.
func hasDevice(ctx context.Context, conn *hypervisor.Conn, name, path string) (bool, error) {
	domain, err := conn.Domain(name)
	if err != nil {
		return false, err
	}
	for _, read := range []func() (string, error){domain.XML, domain.InactiveXML} {
		doc, err := read()
		if err != nil {
			return false, err
		}
		parsed, err := xml.ParseDomain(doc)
		if err != nil {
			return false, err
		}
		for _, d := range parsed.Disks {
			if slices.ContainsFunc(filesOf(ctx, domain, d), func(file string) bool { return device.Same(path, file) }) {
				return true, nil
			}
		}
	}
	return false, nil
}

// filesOf are the files and devices of a disk, those of its backing files included, as far as
// they can be found out: what is not there cannot be overwritten.
func filesOf(ctx context.Context, domain *hypervisor.Domain, d xml.Disk) []string {
	path := d.Source
	if d.SourceType == "volume" {
		pool, volume, _ := strings.Cut(d.Source, "/")
		var err error
		if path, err = domain.VolumePath(pool, volume); err != nil {
			return nil
		}
	}
	if !filepath.IsAbs(path) { // on a network
		return nil
	}
	files := append([]string{path}, d.Backing...)
	images, err := qemuimg.Chain(ctx, path, d.Format, true)
	if err != nil { // a medium that is not there, or no QEMU
		return files
	}
	for _, image := range images {
		files = append(files, shutoff.Files(image)...)
	}
	return files
}
