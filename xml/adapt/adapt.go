// Package adapt changes the XML of a domain so that it can be defined again on restored
// images: as the same domain where the original is gone, or as another one beside it. It does
// no I/O, and builds without cgo.
//
// The elements are those of https://libvirt.org/formatdomain.html.
package adapt

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// Request says what to make of a domain.
type Request struct {
	// Name makes it another domain: it gets a UUID and MAC addresses of its own, and files,
	// sockets and ports that do not collide with those of the original. "" keeps them all.
	Name string
	// Dir is the absolute path of the directory that takes files which cannot stay where they
	// were.
	Dir string
	// Disks are the images that were restored. All other disks stay as they are.
	Disks []Disk
	// Files are other files that were restored, which <os> names: where they were, and the
	// absolute paths of where they are now.
	Files map[string]string
	// NVRAM is the restored file of the firmware's variables; its path is "" for none. It is
	// not one of Files, as the XML may leave its place to libvirt.
	NVRAM File
	// TPM says that the state of the TPM is restored.
	TPM bool
	// Exists says whether a path exists on the host. nil: every path does.
	Exists func(path string) bool
	// Random is where UUIDs and addresses come from; nil is crypto/rand.
	Random io.Reader
}

// Disk is a restored image, which has no backing file and is not encrypted.
type Disk struct {
	Target string // as in the XML: "vda"
	Image  string // absolute path
	Format string // "qcow2" or "raw"
	// Stop makes the guest pause where the disk has an I/O error, rather than see it.
	Stop bool
}

// File is a restored file.
type File struct {
	Path   string // absolute
	Format string // "raw" or "qcow2"; "" is raw
}

// Result is the domain as it is to be defined.
type Result struct {
	XML        string
	Name, UUID string
	// Notes tell a person what was changed, and what was kept and may need a look, in the
	// order of the subjects: identity, start, disks, devices.
	Notes []string
	// Unused are restored images of disks that the XML has not: they were attached to the running
	// domain alone.
	Unused []Disk
}

// adapter is one adaptation.
type adapter struct {
	Request
	root   *edit.Element
	notes  []string
	moved  map[string]string // old path of a file or socket: new path
	taken  map[string]bool   // paths of files, and new MAC addresses
	unused []Disk
	err    error // the first that a change has met
}

// Domain adapts the XML of a domain, as virDomainGetXMLDesc returned it, of a running domain or
// not. Its bytes stay as they are, except for what has to change. It is an error if the XML is
// not that of a domain with a name and a UUID, or if none of the disks is in it.
func Domain(doc string, request Request) (Result, error) {
	document, err := edit.Parse(doc)
	if err != nil {
		return Result{}, err
	}
	a := adapter{Request: request, root: document.Root(), moved: map[string]string{}, taken: map[string]bool{}}
	if a.Exists == nil {
		a.Exists = func(string) bool { return true }
	}
	if a.Random == nil {
		a.Random = rand.Reader
	}
	a.take()
	if a.root.Name() != "domain" || a.root.Child("name").Text() == "" || a.root.Child("uuid").Text() == "" {
		return Result{}, errors.New("the XML is not that of a domain with a name and a UUID")
	}
	a.identity()
	a.start()
	a.disks()
	a.interfaces()
	a.characterDevices()
	a.graphics()
	a.others()
	if a.err != nil {
		return Result{}, a.err
	}
	text, err := document.Text()
	if err != nil {
		return Result{}, fmt.Errorf("XML of the domain: %w", err)
	}
	return Result{text, a.root.Child("name").Text(), a.root.Child("uuid").Text(), a.notes, a.unused}, nil
}

// renamed says whether it becomes another domain.
func (a *adapter) renamed() bool { return a.Name != "" }

// note tells a person once of a change.
func (a *adapter) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(a.notes, text) {
		a.notes = append(a.notes, text)
	}
}

// fails remembers the first error.
func (a *adapter) fails(err error) {
	if a.err == nil {
		a.err = err
	}
}

// devices returns the devices of a kind.
func (a *adapter) devices(kind string) []*edit.Element { return a.root.Children("devices/" + kind) }

// take reserves the paths of what was restored.
func (a *adapter) take() {
	a.taken[a.NVRAM.Path] = true
	for _, d := range a.Disks {
		a.taken[d.Image] = true
	}
	for _, path := range a.Files {
		a.taken[path] = true
	}
}
