package adapt

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// others notes what refers to the host and is kept.
func (a *adapter) others() {
	for _, vsock := range a.devices("vsock/cid") {
		a.vsock(vsock)
	}
	for _, device := range a.devices("hostdev") {
		a.note("the host's device %s is kept: only one running domain can have it", hostDevice(device))
	}
	for _, fs := range a.devices("filesystem") {
		if source := fs.Child("source"); source != nil {
			a.note("the shared directory %s%s is kept, and is not in the point", source.Value("dir"), source.Value("socket"))
		}
	}
	for _, memory := range a.devices("memory") {
		a.memory(memory)
	}
	for _, shmem := range a.devices("shmem") {
		a.note("the shared memory %s is kept: the original and others use it too", shmem.Value("name"))
	}
	for _, lease := range a.devices("lease") {
		a.note("the lease %s is kept: only one running domain can have it", lease.Child("key").Text())
	}
	if a.root.Child("qemu:commandline") != nil {
		a.note("<qemu:commandline> is kept as it was: paths and addresses in it are those of the original")
	}
}

// memory leaves an NVDIMM out of a copy that would write to its file. Nothing locks that.
func (a *adapter) memory(memory *edit.Element) {
	path := memory.Child("source/path")
	switch {
	case path == nil:
	case a.renamed() && memory.Value("access") != "private" && memory.Child("target/readonly") == nil:
		a.note("the memory device on %s is not in the point and left out of the copy: the original writes to it", path.Text())
		memory.Remove()
	default:
		a.note("the memory device on %s is kept, and is not in the point", path.Text())
	}
}

// vsock lets libvirt choose the number of a vsock device, which is unique on the host.
func (a *adapter) vsock(cid *edit.Element) {
	auto := cid.Value("auto") == "yes"
	if !auto && !a.renamed() {
		return
	}
	if old := cid.Value("address"); old != "" {
		cid.RemoveAttr("address")
		if !auto {
			cid.SetAttr("auto", "yes")
			a.note("libvirt chooses the address of the vsock device, which was %s", old)
		}
	}
}

// hostDevice names the device of a <hostdev>.
func hostDevice(device *edit.Element) string {
	kind, source := device.Value("type"), device.Child("source")
	address := source.Child("address")
	switch kind {
	case "pci":
		return "PCI " + pciAddress(address)
	case "usb":
		if vendor := source.Child("vendor"); vendor != nil {
			return "USB " + strings.TrimPrefix(vendor.Value("id"), "0x") + ":" + strings.TrimPrefix(source.Child("product").Value("id"), "0x")
		}
		return fmt.Sprintf("USB bus %s device %s", address.Value("bus"), address.Value("device"))
	case "mdev":
		return "mdev " + address.Value("uuid")
	case "scsi":
		return "SCSI " + source.Child("adapter").Value("name") + source.Value("protocol")
	}
	return kind + source.Value("wwpn")
}

// pciAddress writes an address like lspci -D.
func pciAddress(address *edit.Element) string {
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(address.Value(name), 0, 32) // 0 if it is not there
		return n
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", number("domain"), number("bus"), number("slot"), number("function"))
}
