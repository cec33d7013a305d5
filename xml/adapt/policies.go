package adapt

import (
	"fmt"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// policies are the attributes of a disk's driver that say what an I/O error does, on writing and on
// reading.
var policies = []string{"error_policy", "rerror_policy"}

// Policies are those of a disk, by their attributes; "" where the XML leaves it to QEMU.
type Policies map[string]string

// Stop tells whether they are those of [Disk].Stop.
func (p Policies) Stop() bool {
	for _, name := range policies {
		if p[name] != "stop" {
			return false
		}
	}
	return true
}

// PoliciesOf returns what the XML of a domain says of its disks, by their targets.
func PoliciesOf(doc string) (map[string]Policies, error) {
	document, err := edit.Parse(doc)
	if err != nil {
		return nil, err
	}
	all := map[string]Policies{}
	for _, disk := range document.Root().Children("devices/disk") {
		p := Policies{}
		for _, name := range policies {
			p[name] = disk.Child("driver").Value(name)
		}
		all[disk.Child("target").Value("dev")] = p
	}
	return all, nil
}

// WithPolicies changes only the policies of the disks that are named, by their targets.
func WithPolicies(doc string, of map[string]Policies) (string, error) {
	document, err := edit.Parse(doc)
	if err != nil {
		return "", err
	}
	for _, disk := range document.Root().Children("devices/disk") {
		p, ok := of[disk.Child("target").Value("dev")]
		driver := disk.Child("driver")
		if !ok || driver == nil {
			continue
		}
		for _, name := range policies {
			if value := p[name]; value == "" {
				driver.RemoveAttr(name)
			} else {
				driver.SetAttr(name, value)
			}
		}
	}
	text, err := document.Text()
	if err != nil {
		return "", fmt.Errorf("XML of the domain: %w", err)
	}
	return text, nil
}
