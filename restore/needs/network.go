package needs

import (
	"fmt"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml/edit"
)

// networks checks what the network cards are connected to.
func (c *checker) networks() error {
	for _, nic := range c.all("interface") {
		source := nic.Child("source")
		switch nic.Value("type") {
		case "bridge":
			c.hostInterface(source.Value("bridge"), "the bridge")
		case "direct":
			c.hostInterface(source.Value("dev"), "the network interface")
		case "ethernet":
			if target := nic.Child("target"); target.Value("managed") == "no" {
				c.hostInterface(target.Value("dev"), "the network interface")
			}
		case "network":
			if err := c.network(source); err != nil {
				return err
			}
		case "vhostuser":
			if source.Value("mode") == "client" {
				c.file(source.Value("path"), "the vhost-user socket", "start the switch that makes it")
			}
		case "hostdev":
			c.pci(source)
		}
	}
	return nil
}

func (c *checker) hostInterface(name, what string) {
	if name != "" && c.exists("/sys/class/net") && !c.exists("/sys/class/net/"+name) {
		c.lack("create it (ip link shows what there is), or connect the network card to another one: virtbackup restore --to DIR, and <source> of its <interface> in the XML", "%s %s does not exist", what, name)
	}
}

func (c *checker) network(source *edit.Element) error {
	name := source.Value("network")
	found, err := c.host.Network(name)
	switch {
	case err != nil:
		return err
	case found == hypervisor.Absent:
		c.lack("virsh net-list --all shows those that there are; virsh net-define FILE makes one", "the network %s does not exist", name)
	case found == hypervisor.Inactive && c.Start:
		c.lack(fmt.Sprintf("virsh net-start %[1]s; virsh net-autostart %[1]s", manifest.ShellWord(name)), "the network %s is not active", name)
	}
	return nil
}
