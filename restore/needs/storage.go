package needs

import (
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml/edit"
)

// storage checks the disks that are not restored.
func (c *checker) storage() error {
	for _, disk := range c.all("disk") {
		source := disk.Child("source")
		if source == nil || source.Value("startupPolicy") == "optional" {
			continue
		}
		what := "the storage of disk " + disk.Child("target").Value("dev") + ","
		const hint = "the point does not have this disk: make it available, or take it out of the XML"
		switch disk.Value("type") {
		case "file":
			c.file(source.Value("file"), what, hint)
		case "block", "vhostvdpa":
			c.file(source.Value("dev"), what, hint)
		case "dir":
			c.file(source.Value("dir"), what, hint)
		case "vhostuser":
			c.file(source.Value("path"), what, hint)
		case "nvme":
			c.pci(source)
		case "volume":
			if err := c.volume(source); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) volume(source *edit.Element) error {
	pool, volume := source.Value("pool"), source.Value("volume")
	found, has, err := c.host.Volume(pool, volume)
	switch {
	case err != nil:
		return err
	case found == hypervisor.Absent:
		c.lack("virsh pool-list --all shows those that there are", "the storage pool %s does not exist", pool)
	case found == hypervisor.Inactive:
		c.lack("virsh pool-start "+manifest.ShellWord(pool), "the storage pool %s is not active", pool)
	case !has:
		c.lack("virsh vol-list "+manifest.ShellWord(pool)+" shows those that there are", "the storage pool %s has no volume %s", pool, volume)
	}
	return nil
}

// files checks what else the domain's XML refers to.
func (c *checker) files() {
	const copied = "copy it here: the point does not have it"
	os := c.domain.Child("os")
	for _, name := range []string{"kernel", "initrd", "dtb"} {
		c.file(os.Child(name).Text(), "<"+name+">", copied)
	}
	for _, table := range os.Children("acpi/table") {
		c.file(table.Text(), "the ACPI table", copied)
	}
	for _, source := range c.all("filesystem/source") {
		c.file(source.Value("dir"), "the shared directory", "mkdir -p "+manifest.ShellWord(source.Value("dir"))+", or take <filesystem> out of the XML")
		c.file(source.Value("socket"), "the virtiofs socket", "start the virtiofsd that makes it")
	}
	for _, path := range c.all("memory/source/path") {
		c.file(path.Text(), "the memory device", copied)
	}
	for _, kind := range []string{"serial", "parallel", "console", "channel"} {
		for _, device := range c.all(kind) {
			path := device.Child("source").Value("path")
			switch device.Value("type") {
			case "dev", "pipe":
				c.file(path, "the "+kind+" device", "")
			case "unix":
				c.socketLength(path)
			}
		}
	}
}

// maxSocket is how long the path of a unix socket may be (unix(7): sun_path has 108 bytes with
// the NUL).
const maxSocket = 107

func (c *checker) socketLength(path string) {
	if len(path) > maxSocket {
		c.lack("restore to a directory with a shorter path", "the path of the socket %s has more than %d bytes", path, maxSocket)
	}
}
