package needs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/virtbackup/virtbackup/xml/edit"
)

const ofDevice = "take it out of the XML: virtbackup restore --to DIR makes images and XML to be defined by hand"

// devices checks the devices of the host that the domain gets. sysfs knows them, also where
// libvirt has no list of devices.
func (c *checker) devices() {
	for _, device := range c.all("hostdev") {
		source := device.Child("source")
		if source.Value("startupPolicy") == "optional" {
			continue
		}
		switch device.Value("type") {
		case "pci":
			c.pci(source)
		case "usb":
			c.usb(source)
		case "mdev":
			if uuid := source.Child("address").Value("uuid"); !c.exists("/sys/bus/mdev/devices/" + uuid) {
				c.lack(ofDevice, "the mediated device %s does not exist", uuid)
			}
		}
	}
	for _, backend := range c.all("tpm/backend") {
		c.file(backend.Child("device").Value("path"), "the TPM", ofDevice)
	}
}

func (c *checker) pci(source *edit.Element) {
	address := source.Child("address")
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(address.Value(name), 0, 32) // 0 if it is not there
		return n
	}
	name := fmt.Sprintf("%04x:%02x:%02x.%x", number("domain"), number("bus"), number("slot"), number("function"))
	if !c.exists("/sys/bus/pci/devices/" + name) {
		c.lack(ofDevice, "the PCI device %s does not exist", name)
	}
}

// usb looks for a device by vendor and product, or by its place.
func (c *checker) usb(source *edit.Element) {
	want := map[string]string{}
	if vendor := source.Child("vendor"); vendor != nil {
		want["idVendor"] = strings.TrimPrefix(vendor.Value("id"), "0x")
		want["idProduct"] = strings.TrimPrefix(source.Child("product").Value("id"), "0x")
	} else {
		want["busnum"], want["devnum"] = source.Child("address").Value("bus"), source.Child("address").Value("device")
	}
	devices, _ := filepath.Glob(c.Root + "/sys/bus/usb/devices/*")
	for _, device := range devices {
		if hasAll(device, want) {
			return
		}
	}
	if id, ok := want["idVendor"]; ok {
		c.lack(ofDevice, "the USB device %s:%s is not there", id, want["idProduct"])
	} else {
		c.lack(ofDevice, "there is no USB device %s on bus %s", want["devnum"], want["busnum"])
	}
}

// hasAll says whether the files of a device have these contents.
func hasAll(device string, want map[string]string) bool {
	for file, value := range want {
		data, err := os.ReadFile(filepath.Join(device, file))
		if err != nil || strings.TrimSpace(string(data)) != value {
			return false
		}
	}
	return true
}
