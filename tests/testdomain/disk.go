package testdomain

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
)

// Disk describes a disk of a domain. Target and Size are enough: the defaults
// make an ordinary qcow2 image.
type Disk struct {
	Target      string // vda, vdb, …
	Size        int64  // bytes, a multiple of 512
	Format      string // "qcow2" (default) or "raw"
	ClusterSize int    // bytes; 0: 64 KiB; qcow2 only
	Subclusters bool   // extended_l2, 32 subclusters for each cluster; qcow2 only
	Backing     string // "": none; else "qcow2" or "raw": has a backing file with data in every other MiB
	Device      string // "disk" (default), "cdrom" (then without medium)
	ReadOnly    bool
	Source      string // an image that exists already; set by New where empty
}

// BackingByte is what the backing file of a Disk with Backing holds in every
// other MiB, beginning with the first.
const BackingByte = 0xb5

// create makes the disk's image and its backing file in dir.
func (d *Disk) create(t testing.TB, dir string) {
	t.Helper()
	if d.Format == "" {
		d.Format = "qcow2"
	}
	if d.Device == "" {
		d.Device = "disk"
	}
	if d.Source != "" || d.Device == "cdrom" {
		return
	}
	d.Source = filepath.Join(dir, d.Target+"."+d.Format)
	args := []string{"create", "-q", "-f", d.Format}
	if d.Format == "qcow2" {
		args = append(args, "-o", d.options())
	}
	if d.Backing != "" {
		args = append(args, "-b", d.createBacking(t, dir), "-F", d.Backing)
	}
	Tool(t, "qemu-img", append(args, d.Source, strconv.FormatInt(d.Size, 10))...)
}

func (d *Disk) options() string {
	cluster := d.ClusterSize
	if cluster == 0 {
		cluster = 64 << 10
	}
	o := fmt.Sprintf("compat=1.1,cluster_size=%d", cluster)
	if d.Subclusters {
		o += ",extended_l2=on"
	}
	return o
}

func (d *Disk) createBacking(t testing.TB, dir string) string {
	t.Helper()
	base := filepath.Join(dir, d.Target+".base."+d.Backing)
	Tool(t, "qemu-img", "create", "-q", "-f", d.Backing, base, strconv.FormatInt(d.Size, 10))
	args := []string{"-f", d.Backing}
	const mib = 1 << 20
	for at := int64(0); at+mib <= d.Size; at += 2 * mib {
		args = append(args, "-c", fmt.Sprintf("write -q -P %#x %d %d", BackingByte, at, mib))
		if len(args) > 200 {
			Tool(t, "qemu-io", append(args, base)...)
			args = args[:2]
		}
	}
	if len(args) > 2 {
		Tool(t, "qemu-io", append(args, base)...)
	}
	return base
}

// xml is the disk's element in the domain's XML. The alias makes its path in
// QEMU known: /machine/peripheral/ua-TARGET.
func (d *Disk) xml() string {
	if d.Device == "cdrom" {
		return fmt.Sprintf(`<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>`+
			`<target dev='%s' bus='ide'/><readonly/></disk>`, d.Target)
	}
	readonly := ""
	if d.ReadOnly {
		readonly = "<readonly/>"
	}
	return fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='%s' discard='unmap'/>`+
		`<source file='%s'/><target dev='%s' bus='virtio'/>%s<alias name='ua-%s'/></disk>`,
		d.Format, d.Source, d.Target, readonly, d.Target)
}
