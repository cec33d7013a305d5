package hypervisor

import (
	"fmt"

	"libvirt.org/go/libvirt"
)

// PullJob is the kind of a [BlockJob] that BlockPull begins.
const PullJob = "pull"

// BlockPull begins to copy what a disk's image has in its backing files into the image itself, which does not need them
// any more afterwards (virDomainBlockPull), at most bandwidth bytes a second; 0 is no bound. BlockJob shows it.
func (d *Domain) BlockPull(target string, bandwidth uint64) error {
	err := d.once(func(dom *libvirt.Domain) error {
		return dom.BlockPull(target, bandwidth, libvirt.DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
	})
	return about(d.orNotRunning(err), "pull the backing files of disk %s of domain %s", target, d.name)
}

// PullSpeed changes how many bytes a second a pull that is under way copies at most; 0 is no bound
// (virDomainBlockJobSetSpeed).
func (d *Domain) PullSpeed(target string, bandwidth uint64) error {
	err := d.once(func(dom *libvirt.Domain) error {
		return dom.BlockJobSetSpeed(target, bandwidth, libvirt.DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)
	})
	return about(d.orNotRunning(err), "change the speed of the job on disk %s of domain %s", target, d.name)
}

// FlushNode has QEMU write what it holds back of a node of its own, such as the tables of a qcow2 image (xml.Disk.FormatNode).
// libvirt has no call for that, and QEMU no command of its monitor protocol but the one for people, which tells of no failure:
// look at the file. It marks the domain as tainted; see monitor.
func (d *Domain) FlushNode(node string) error {
	err := d.monitor("human-monitor-command", map[string]any{"command-line": fmt.Sprintf("qemu-io %s flush", node)}, nil)
	return about(err, "flush node %s of domain %s", node, d.name)
}

// PowerOff ends the guest as if its power was cut (virDomainDestroy, with SIGTERM for QEMU first). No error if it is shut off.
func (d *Domain) PowerOff() error {
	err := d.with(func(dom *libvirt.Domain) error { return dom.Destroy() })
	if err != nil {
		if active, activeErr := d.Active(); activeErr == nil && !active {
			return nil
		}
	}
	return about(err, "power off domain %s", d.name)
}
