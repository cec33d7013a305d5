// Package qemuuser finds the user that QEMU runs a domain as, who has to be able to open its files.
package qemuuser

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// User is the user that QEMU runs as.
type User struct {
	UID, GID int
	Name     string
	groups   []uint32 // further ones, which libvirt gives to its QEMU, too
}

// Find finds out which user QEMU runs a domain as, whose XML is given: the one of a static label
// of the domain, else libvirt's for all domains (qemu.conf: user, group), which the capabilities
// of the host tell. It is nil where it is this process's own user, root, or not to be found out.
func Find(domain, capabilities string) (*User, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	doc, err := edit.Parse(domain)
	if err != nil {
		return nil, err
	}
	for _, label := range doc.Root().Children("seclabel") {
		if label.Value("model") == "dac" && label.Value("type") == "static" {
			return userOf(label.Child("label").Text())
		}
	}
	host, err := edit.Parse(capabilities)
	if err != nil {
		return nil, fmt.Errorf("capabilities of the host: %w", err)
	}
	for _, model := range host.Root().Children("host/secmodel") {
		if model.Child("model").Text() != "dac" {
			continue
		}
		for _, label := range model.Children("baselabel") {
			if label.Value("type") == doc.Root().Value("type") {
				return userOf(label.Text())
			}
		}
	}
	return nil, nil
}

// userOf reads a DAC label: "+64055:+64055", "qemu:qemu", or a user alone.
func userOf(label string) (*User, error) {
	name, group, _ := strings.Cut(label, ":")
	u := &User{Name: strings.TrimPrefix(name, "+")}
	account, err := user.Lookup(u.Name)
	if err != nil {
		account, err = user.LookupId(u.Name)
	}
	if err == nil {
		u.Name = account.Username
		u.UID, _ = strconv.Atoi(account.Uid)
		u.GID, _ = strconv.Atoi(account.Gid)
		u.groups = groupsOf(account)
	} else if u.UID, err = strconv.Atoi(u.Name); err != nil {
		return nil, fmt.Errorf("QEMU's user %q is unknown", label)
	}
	group = strings.TrimPrefix(group, "+")
	if gid, err := strconv.Atoi(group); err == nil {
		u.GID = gid
	} else if g, err := user.LookupGroup(group); err == nil {
		u.GID, _ = strconv.Atoi(g.Gid)
	}
	if u.UID == 0 {
		return nil, nil // root enters and reads everything
	}
	return u, nil
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

// CanEnter says whether the user may enter a directory and those above it. The kernel is
// asked, which knows of access lists, too. Where it cannot be asked, yes.
func (u *User) CanEnter(dir string) bool {
	test, err := exec.LookPath("test")
	if err != nil {
		return true
	}
	cmd := exec.Command(test, "-x", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID), Groups: u.groups}}
	_, refused := cmd.Run().(*exec.ExitError)
	return !refused
}
