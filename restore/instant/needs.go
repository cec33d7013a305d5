package instant

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/xml"
)

// maxChain bounds how many images below one are looked at. QEMU opens some 350.
const maxChain = 400

// needs tells whether an image, or one below it, has an export of the server as its backing file. A file
// that is not there, or no qcow2 image, has none.
func (r *run) needs(path string) (bool, error) {
	for range maxChain {
		backing, err := backingOf(path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, qcow2.ErrNotQcow2):
			return false, nil
		case err != nil:
			return false, err
		case r.onServer(backing):
			return true, nil
		case backing == "" || strings.Contains(backing, ":"): // json:, or a URI
			return false, nil
		}
		if !filepath.IsAbs(backing) {
			backing = filepath.Join(filepath.Dir(path), backing)
		}
		path = backing
	}
	return false, fmt.Errorf("%s: more than %d images below it", path, maxChain)
}

// onServer tells whether a backing file is an export of the server of this pin.
func (r *run) onServer(backing string) bool {
	return strings.HasPrefix(backing, qcow2.NBDSocket) && strings.HasSuffix(backing, "?socket="+r.pin.Runs.Socket)
}

// inNeed returns an image that needs the server, "" if there is none: one that the restore has made,
// whether the domain has it now or not (a disk that was detached, an image below a snapshot), or one of
// the domain, wherever it is now.
func (r *run) inNeed() (string, error) {
	paths := r.images()
	if r.domain != nil {
		for _, ask := range []func() (string, error){r.domain.XML, r.domain.InactiveXML} {
			definition, err := parsed(ask)
			if err != nil {
				return "", err
			}
			for _, d := range definition.Disks {
				paths = append(paths, sources(d)...)
			}
		}
	}
	for _, path := range paths {
		if needs, err := r.inNeedOf(path); err != nil || needs {
			return path, err
		}
	}
	return "", nil
}

// inNeedOf tells whether an image needs the server, by its header or by its tables; without the domain by
// its header alone: another restore may have put an image of that name there.
func (r *run) inNeedOf(path string) (bool, error) {
	needs, err := r.needs(path)
	if err != nil || needs || r.domain == nil {
		return needs, err
	}
	return r.unsettled(path)
}

// sources are the files of a disk.
func sources(d xml.Disk) (paths []string) {
	for _, path := range append([]string{d.Source}, d.Backing...) {
		if filepath.IsAbs(path) && (d.SourceType == "file" || d.SourceType == "block") {
			paths = append(paths, path)
		}
	}
	return paths
}

// images are the paths of the images that may have been made.
func (r *run) images() []string {
	return slices.DeleteFunc(r.files(), func(path string) bool { return !isImage(path) })
}

func isImage(path string) bool { return strings.HasSuffix(path, imageSuffix) }

// standing is an error while an image needs the server.
func (r *run) standing() error {
	image, err := r.inNeed()
	if err != nil || image == "" {
		return err
	}
	return fail.WithHint(fmt.Errorf("%s still has its data in %s of domain %s, which stays pinned", image, r.pin.Point, r.Domain),
		"if nothing needs that image (a snapshot, another domain), remove it; then virtbackup restore %s --instant --to %s --resume ends the restore",
		manifest.ShellWord(r.Domain), manifest.ShellWord(r.pin.Runs.Dir))
}

// usedElsewhere is an error if another domain than that of the pin uses one of the images.
func (r *run) usedElsewhere() error {
	names, err := r.host.Domains()
	if err != nil {
		return err
	}
	images := slices.DeleteFunc(r.images(), func(path string) bool { return !r.ours(path) })
	if len(images) == 0 {
		return nil
	}
	for _, name := range names {
		domain, err := r.host.Domain(name)
		if errors.Is(err, hypervisor.ErrNoDomain) {
			continue
		}
		if err != nil {
			return err
		}
		if domain.UUID() == r.pin.Runs.UUID {
			continue
		}
		for _, ask := range []func() (string, error){domain.XML, domain.InactiveXML} {
			definition, err := parsed(ask)
			if err != nil {
				continue // not one that names our images in a way that libvirt understands, or gone
			}
			for _, d := range definition.Disks {
				for _, path := range sources(d) {
					if slices.Contains(images, path) {
						return fail.WithHint(fmt.Errorf("domain %s uses %s, and is not the one that was restored (UUID %s): nothing is removed", name, path, r.pin.Runs.UUID),
							"define it with that UUID and --resume, or undefine it and --abandon")
					}
				}
			}
		}
	}
	return nil
}
