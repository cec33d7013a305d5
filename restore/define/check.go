package define

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/needs"
	"github.com/virtbackup/virtbackup/xml"
)

// LackError says all that prevents a domain from being defined on this host. Nothing was
// written.
type LackError struct {
	Name  string // of the domain
	Lacks []needs.Lack
}

// Error lists what is missing, with what to do about each.
func (e *LackError) Error() string {
	if len(e.Lacks) == 1 {
		return fmt.Sprintf("domain %s cannot be defined here: %s", e.Name, e.Lacks[0].What)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "domain %s cannot be defined here, for %d reasons:", e.Name, len(e.Lacks))
	for _, lack := range e.Lacks {
		fmt.Fprintf(&b, "\n  - %s", lack.What)
		if lack.Hint != "" {
			fmt.Fprintf(&b, " (%s)", lack.Hint)
		}
	}
	return b.String()
}

// Hint says what to do.
func (e *LackError) Hint() string {
	if len(e.Lacks) == 1 && e.Lacks[0].Hint != "" {
		return e.Lacks[0].Hint
	}
	return "nothing was written; virtbackup restore --to DIR makes the images and the XML, to be changed and defined by hand"
}

// check looks for all that prevents the domain from being defined and started.
func (d *definer) check() error {
	lacks, err := d.collisions()
	if err != nil {
		return err
	}
	missing, err := needs.Of(d.adapted.XML, d.host, needs.Options{Dir: d.Dir, Start: d.Start})
	if err != nil {
		return err
	}
	lacks = append(lacks, missing.Lacks...)
	for _, doubt := range missing.Doubts {
		d.warn("libvirt may not start the domain on this host: %s", doubt)
	}
	if d.owner, err = d.findOwner(); err != nil {
		return err
	}
	lacks = append(lacks, d.access()...)
	if len(lacks) > 0 {
		return &LackError{d.adapted.Name, lacks}
	}
	return nil
}

// stillFree looks for collisions again: the images may have taken hours, and libvirt replaces a
// definition without asking.
func (d *definer) stillFree() error {
	lacks, err := d.collisions()
	if err == nil && len(lacks) > 0 {
		err = &LackError{d.adapted.Name, lacks}
	}
	return err
}

// collisions looks for domains of the name or the UUID. One that a killed restore to the
// directory has defined does not count: it is undefined before its images are removed.
func (d *definer) collisions() (lacks []needs.Lack, err error) {
	const another = "--name NEW restores to another domain beside it; or virsh undefine %s --managed-save --snapshots-metadata --checkpoints-metadata --keep-nvram --keep-tpm first, if it is to be replaced: its disks stay"
	same, err := d.found(d.host.DomainByUUID(d.adapted.UUID))
	if err != nil {
		return nil, err
	}
	if same != "" {
		what := "it is defined already"
		if same != d.adapted.Name {
			what = fmt.Sprintf("domain %s has its UUID", same)
		}
		lacks = append(lacks, needs.Lack{What: what, Hint: fmt.Sprintf(another, manifest.ShellWord(same))})
	}
	named, err := d.found(d.host.Domain(d.adapted.Name))
	if err != nil {
		return nil, err
	}
	if named != "" && named != same {
		hint := "another --name"
		if d.Name == "" {
			hint = fmt.Sprintf(another, manifest.ShellWord(named))
		}
		lacks = append(lacks, needs.Lack{What: fmt.Sprintf("there is another domain %s", named), Hint: hint})
	}
	used, err := d.imagesInUse()
	return append(lacks, used...), err
}

// imagesInUse looks for domains whose XML names one of the images that are going to be made:
// they would use it, too.
func (d *definer) imagesInUse() (lacks []needs.Lack, err error) {
	images := map[string]bool{}
	for _, disk := range d.point.Disks {
		path, _ := d.ImageOf(disk)
		images[path] = true
	}
	names, err := d.host.Domains()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		used, err := d.usedBy(name, images)
		switch {
		case errors.Is(err, hypervisor.ErrNoDomain): // undefined meanwhile
		case err != nil:
			return nil, err
		case used != "":
			lacks = append(lacks, needs.Lack{What: fmt.Sprintf("domain %s has %s as a disk", name, used), Hint: "name another directory with --to"})
		}
	}
	return lacks, nil
}

// usedBy returns the first of the images that a domain has as a disk, "" for none. A domain
// that is in the way itself, or was left by a killed restore, is told of elsewhere.
func (d *definer) usedBy(name string, images map[string]bool) (string, error) {
	domain, err := d.host.Domain(name)
	if err != nil || domain.UUID() == d.adapted.UUID || domain.Name() == d.adapted.Name {
		return "", err
	}
	doc, err := domain.XML()
	if err != nil {
		return "", err
	}
	definition, err := xml.ParseDomain(doc)
	if err != nil {
		return "", nil // not one that names our images in a way that libvirt understands
	}
	for _, disk := range definition.Disks {
		source, err := localfile.RealPath(disk.Source)
		if err == nil && disk.Source != "" && images[source] {
			left, err := d.isLeft(domain)
			if left {
				return "", nil
			}
			return disk.Source, err
		}
	}
	return "", nil
}

// found turns what a look-up has returned into the name of a domain that is in the way.
func (d *definer) found(domain *hypervisor.Domain, err error) (name string, _ error) {
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	left, err := d.isLeft(domain)
	if err != nil || left {
		return "", err
	}
	return domain.Name(), nil
}

// access says whether QEMU's user can enter the directory, or the one that it is going to be
// made in.
func (d *definer) access() []needs.Lack {
	if d.owner == nil {
		return nil
	}
	dir := d.Dir
	if absent := localfile.AbsentDirs(d.Dir); len(absent) > 0 {
		dir = filepath.Dir(absent[0])
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() || d.owner.CanEnter(dir) {
		return nil // restore.Run says it better
	}
	blocked := dir
	for parent := filepath.Dir(blocked); parent != blocked && !d.owner.CanEnter(parent); parent = filepath.Dir(blocked) {
		blocked = parent
	}
	return []needs.Lack{{
		What: fmt.Sprintf("QEMU, which runs as %s, cannot enter %s", d.owner.Name, blocked),
		Hint: fmt.Sprintf("setfacl -m u:%s:x %s, or chmod o+x, or a new directory elsewhere with --to, such as one below /var/lib/libvirt/images", d.owner.Name, manifest.ShellWord(blocked)),
	}}
}
