package hypervisor

import (
	"encoding/json"
	"fmt"

	"libvirt.org/go/libvirt"
)

// OldImages returns the names of those nodes of a running domain's QEMU that are qcow2 images of version 2 (compat 0.10),
// which cannot have bitmaps: what QEMU itself says of the images that it holds, wherever they are (query-named-block-nodes,
// virDomainQemuMonitorCommand).
//
// libvirt marks the domain as tainted ("custom-monitor") for any such command, and says so in the domain's log. So ask
// only about a disk for which there is no other way.
func (d *Domain) OldImages() (nodes []string, err error) {
	var reply string
	err = d.with(func(dom *libvirt.Domain) error {
		reply, err = dom.QemuMonitorCommand(`{"execute": "query-named-block-nodes", "arguments": {"flat": true}}`,
			libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
		return err
	})
	if err == nil {
		nodes, err = oldImages(reply)
	}
	return nodes, about(d.orNotRunning(err), "ask the QEMU of domain %s for its images", d.name)
}

// oldImages reads the reply to query-named-block-nodes.
func oldImages(reply string) (nodes []string, err error) {
	var list struct {
		Return []struct {
			Name  string `json:"node-name"`
			Image struct {
				Specific struct {
					Type string `json:"type"`
					Data struct {
						Compat string `json:"compat"`
					} `json:"data"`
				} `json:"format-specific"`
			} `json:"image"`
		} `json:"return"`
	}
	if err := json.Unmarshal([]byte(reply), &list); err != nil {
		return nil, fmt.Errorf("parse the reply: %w", err)
	}
	for _, n := range list.Return {
		if n.Image.Specific.Type == "qcow2" && n.Image.Specific.Data.Compat == "0.10" {
			nodes = append(nodes, n.Name)
		}
	}
	return nodes, nil
}
