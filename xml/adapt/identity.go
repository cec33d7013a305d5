package adapt

import (
	"fmt"
	"io"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// identity changes what distinguishes the domain from others.
func (a *adapter) identity() {
	a.root.RemoveAttr("id") // of a running domain
	a.labels()
	if genid := a.root.Child("genid"); genid != nil {
		// "The genid … is changed … when a virtual machine is … restored from backup": Active
		// Directory notices that its database went back in time.
		genid.SetText(a.uuid())
		a.note("the generation id (<genid>) is new, so that the guest notices that it went back in time")
	}
	if !a.renamed() {
		return
	}
	a.root.Child("name").SetText(a.Name)
	uuid := a.uuid()
	a.root.Child("uuid").SetText(uuid)
	a.note("the name is %s, the UUID %s", a.Name, uuid)
	for _, entry := range a.root.Children("sysinfo/system/entry") {
		if entry.Value("name") == "uuid" { // libvirt refuses one that is not the domain's
			entry.SetText(uuid)
		}
	}
}

// labels drops what libvirt has made up for one run. What is static stays.
func (a *adapter) labels() {
	for _, label := range a.root.Children("seclabel") {
		model := label.Value("model")
		switch label.Value("type") {
		case "static":
			a.note("the static security label (%s) is kept: the images have to fit it", model)
		case "dynamic", "":
			label.Child("label").Remove()
			label.Child("imagelabel").Remove()
			label.Empty()
		}
	}
}

// uuid returns a random UUID (RFC 4122, version 4).
func (a *adapter) uuid() string {
	b := a.random(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (a *adapter) random(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(a.Random, b); err != nil {
		a.fails(fmt.Errorf("random numbers: %w", err))
	}
	return b
}

// interfaces gives network cards addresses of their own.
func (a *adapter) interfaces() {
	for i, nic := range a.devices("interface") {
		a.networkCard(i+1, nic)
	}
}

func (a *adapter) networkCard(number int, nic *edit.Element) {
	kind := nic.Value("type")
	if kind == "network" { // what a running domain has besides
		nic.Child("source").RemoveAttr("portid")
		nic.Child("source").RemoveAttr("bridge")
	}
	if kind == "vhostuser" {
		if a.renamed() && nic.Child("source").Value("mode") == "server" {
			a.move(nic.Child("source"), "path", "vhost-user socket")
		}
		a.note("network card %d uses the vhost-user socket %s: its switch has to be there", number, nic.Child("source").Value("path"))
	}
	if !a.renamed() {
		return
	}
	if mac := nic.Child("mac"); mac != nil {
		old := mac.Value("address")
		mac.SetAttr("address", a.mac(old))
		a.note("network card %d has the MAC address %s instead of %s", number, mac.Value("address"), old)
	}
	for _, parameters := range nic.Children("virtualport/parameters") {
		if _, ok := parameters.Attr("interfaceid"); ok { // Open vSwitch: unique to a port
			parameters.SetAttr("interfaceid", a.uuid())
		}
	}
	target := nic.Child("target")
	if name, managed := target.Value("dev"), target.Value("managed"); name != "" && managed != "no" {
		target.RemoveAttr("dev")
		if _, more := target.Attr("managed"); !more && len(target.Elements()) == 0 {
			target.Remove()
		}
		a.note("network card %d no longer asks for the host's interface %s: libvirt chooses a name", number, name)
	} else if name != "" {
		a.note("network card %d still uses the host's interface %s: only one running domain can have it", number, name)
	}
	if len(nic.Children("filterref/parameter")) > 0 {
		a.note("the network filter of card %d is kept, with its parameters (addresses)", number)
	}
	if len(nic.Children("portForward")) > 0 {
		a.note("network card %d forwards ports of the host, which only one running domain can have", number)
	}
}

// mac returns a random address that no other card here has: with the vendor's part of an old one,
// which becomes a locally administered one (IEEE 802, the second bit; QEMU's 52:54:00 is).
func (a *adapter) mac(old string) string {
	var vendor [3]byte
	if _, err := fmt.Sscanf(old, "%02x:%02x:%02x", &vendor[0], &vendor[1], &vendor[2]); err != nil {
		vendor = [3]byte{0x52, 0x54, 0x00}
	}
	vendor[0] = vendor[0]&^1 | 2
	for a.err == nil {
		b := a.random(3)
		mac := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", vendor[0], vendor[1], vendor[2], b[0], b[1], b[2])
		if mac != old && !a.taken[mac] {
			a.taken[mac] = true
			return mac
		}
	}
	return old
}
