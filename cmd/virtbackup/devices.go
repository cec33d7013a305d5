package main

import (
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/guest/diskuse"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/device"
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
	err = diskuse.Each(c.Context, guest.Libvirt(conn), request.Log, func(u diskuse.Use) error {
		user := "it is a disk of domain " + u.Domain.Name()
		if !slices.Contains(users, user) && device.Same(path, u.Path) {
			users = append(users, user)
		}
		return nil
	})
	return users, err
}
