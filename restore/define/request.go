// Package define restores a point to a domain: images in a directory, and a definition in
// libvirt that uses them. What the host lacks is found before anything is written; whatever
// fails is undone, and what a killed restore has left is undone by the next one to the same
// directory.
package define

import (
	"context"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/needs"
)

// Host is what is asked of libvirt: a *hypervisor.Conn.
type Host interface {
	needs.Host
	Domains() ([]string, error)
	Domain(name string) (*hypervisor.Domain, error)
	DomainByUUID(uuid string) (*hypervisor.Domain, error)
	Define(doc string, validate bool) (*hypervisor.Domain, error)
}

// Request is what to restore, and to which domain. Its Finish, Undo, Defines and DirMode
// are set by Run; all disks of the point are restored.
type Request struct {
	restore.Request
	// Name makes it another domain than the one that the point is of, with a UUID and MAC
	// addresses of its own. "" defines the same domain again, which must not be defined.
	Name string
	// Start starts the domain when all is done.
	Start bool
	// Ready, if set, is called before that, to wait for what the domain needs: an error keeps it
	// shut off.
	Ready func(ctx context.Context) error
}

// Result is what was made.
type Result struct {
	restore.Result
	Name string `json:"name"` // of the domain that was defined
	UUID string `json:"uuid"`
	// Changes are sentences for people: what is not as in the point's XML, and what was kept
	// and may need a look.
	Changes   []string `json:"changes"`
	Autostart bool     `json:"autostart"` // libvirt starts it with the host
	Started   bool     `json:"started"`
}

func (r Request) validate() error {
	switch {
	case len(r.Disks) > 0:
		return fail.Errorf(fail.Usage, "leave out --disk; --to without --define restores single disks", "a domain is defined with all disks of the point")
	case r.Dir == "":
		return fail.Errorf(fail.Usage, "--to DIR, which takes the images", "no directory to restore to")
	case r.Name == "":
		return nil
	case r.Name == r.Domain:
		return fail.Errorf(fail.Usage, "leave out --name to define the same domain again, or take another name", "--name %s is the name of the domain itself", r.Name)
	case strings.TrimSpace(r.Name) != r.Name || r.Name == "." || r.Name == ".." || strings.ContainsFunc(r.Name, unsuited) || filepath.Base(r.Name) != r.Name:
		return fail.Errorf(fail.Usage, "--name with letters, digits, - _ .", "%q cannot be the name of a domain", r.Name)
	}
	return nil
}

// unsuited says what libvirt does not accept in a name.
func unsuited(c rune) bool { return c == '/' || unicode.IsControl(c) || c == unicode.ReplacementChar }
