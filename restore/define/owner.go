package define

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// dirMode is the mode of directories that are made: QEMU's user can enter them and cannot
// list them.
const dirMode = 0o711

// owner is the user that QEMU runs as.
type owner struct {
	uid, gid int
	groups   []uint32 // further ones, which libvirt gives to its QEMU, too
	name     string
}

// findOwner finds out which user QEMU runs the domain as: the one of a static label of the
// domain, else libvirt's for all domains (qemu.conf: user, group), which its capabilities
// tell. It is nil where it is this process's own user, or not to be found out.
func (d *definer) findOwner() (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	doc, err := edit.Parse(d.adapted.XML)
	if err != nil {
		return nil, err
	}
	for _, label := range doc.Root().Children("seclabel") {
		if label.Value("model") == "dac" && label.Value("type") == "static" {
			return ownerOf(label.Child("label").Text())
		}
	}
	text, err := d.host.Capabilities()
	if err != nil {
		return nil, err
	}
	capabilities, err := edit.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("capabilities of the host: %w", err)
	}
	for _, model := range capabilities.Root().Children("host/secmodel") {
		if model.Child("model").Text() != "dac" {
			continue
		}
		for _, label := range model.Children("baselabel") {
			if label.Value("type") == doc.Root().Value("type") {
				return ownerOf(label.Text())
			}
		}
	}
	return nil, nil
}

// ownerOf reads a DAC label: "+64055:+64055", "qemu:qemu", or a user alone.
func ownerOf(label string) (*owner, error) {
	name, group, _ := strings.Cut(label, ":")
	o := &owner{name: strings.TrimPrefix(name, "+")}
	account, err := user.Lookup(o.name)
	if err != nil {
		account, err = user.LookupId(o.name)
	}
	if err == nil {
		o.name = account.Username
		o.uid, _ = strconv.Atoi(account.Uid)
		o.gid, _ = strconv.Atoi(account.Gid)
		o.groups = groupsOf(account)
	} else if o.uid, err = strconv.Atoi(o.name); err != nil {
		return nil, fmt.Errorf("QEMU's user %q is unknown", label)
	}
	group = strings.TrimPrefix(group, "+")
	if gid, err := strconv.Atoi(group); err == nil {
		o.gid = gid
	} else if g, err := user.LookupGroup(group); err == nil {
		o.gid, _ = strconv.Atoi(g.Gid)
	}
	if o.uid == 0 {
		return nil, nil // root enters and reads everything
	}
	return o, nil
}

// groupsOf are the groups of a user, none where they are unknown.
func groupsOf(account *user.User) (groups []uint32) {
	ids, _ := account.GroupIds()
	for _, id := range ids {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(gid))
		}
	}
	return groups
}

// canEnter says whether the user may enter a directory and those above it. The kernel is
// asked, which knows of access lists, too. Where it cannot be asked, yes.
func (o *owner) canEnter(dir string) bool {
	test, err := exec.LookPath("test")
	if err != nil {
		return true
	}
	cmd := exec.Command(test, "-x", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid), Groups: o.groups}}
	_, refused := cmd.Run().(*exec.ExitError)
	return !refused
}

// give makes QEMU's user the owner of a file. A file system that has no owners, or a server
// that lets nobody change them (NFS with root_squash), is a warning: QEMU may be able to open
// the file all the same.
func (d *definer) give(path string) error {
	if d.owner == nil {
		return nil
	}
	err := os.Lchown(path, d.owner.uid, d.owner.gid)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) {
		d.warn("QEMU, which runs as %s, may not be able to open what was restored: %v", d.owner.name, err)
		return nil
	}
	return err
}
