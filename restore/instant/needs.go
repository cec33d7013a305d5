package instant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/xml"
)

// maxChain bounds how many images below one are looked at. QEMU opens some 350.
const maxChain = 400

// needs tells whether an image, or one below it, has an export of the server as its backing file. A file
// that is not there, or no qcow2 image, has none; of one that is not there below another one nothing is
// known, which is an error.
func (r *run) needs(path string) (bool, error) {
	for below := range maxChain {
		backing, err := backingOf(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && below == 0, isNoImage(err):
			return false, nil
		case err != nil:
			return false, err
		case r.onServer(backing):
			return true, nil
		case backing == "" || hasProtocol(backing):
			return false, nil
		}
		if !filepath.IsAbs(backing) {
			backing = filepath.Join(filepath.Dir(path), backing)
		}
		path = backing
	}
	return false, fmt.Errorf("%s: more than %d images below it", path, maxChain)
}

// onServer tells whether a backing file is an export of the server of this pin: as a URI, or as libvirt
// and QEMU write it into images that they make ("json:{…}"). No other socket has that name.
func (r *run) onServer(backing string) bool {
	return hasProtocol(backing) && strings.Contains(backing, filepath.Base(r.pin.Runs.Socket))
}

// hasProtocol tells whether a backing file is no path: a colon comes before the first slash
// (path_has_protocol in QEMU's block.c).
func hasProtocol(backing string) bool {
	before, _, _ := strings.Cut(backing, "/")
	return strings.Contains(before, ":")
}

// inNeed returns an image that needs the server, "" if there is none: one that the restore has made,
// whether the domain has it now or not (a disk that was detached, an image below a snapshot), or one of
// the domain, wherever it is now.
func (r *run) inNeed() (string, error) {
	if image, err := r.anyInNeed(r.images()); err != nil || image != "" || r.domain == nil {
		return image, err
	}
	if image, err := r.inNeedBy(r.domain); err != nil || image != "" {
		return image, err
	}
	return "", r.dirVisible()
}

// inNeedBy returns an image of a domain's disks, now or when it is started next, that needs the server.
func (r *run) inNeedBy(domain *hypervisor.Domain) (string, error) {
	for _, ask := range []func() (string, error){domain.XML, domain.InactiveXML} {
		definition, err := parsed(ask)
		if err != nil {
			return "", err
		}
		for _, d := range definition.Disks {
			if !hasImage(d) {
				continue
			}
			image, err := r.anyInNeed(sources(d))
			if err == nil {
				err = r.visible(d)
			}
			if r.restored(d) && err != nil || err == nil && image != "" {
				return image, err
			}
		}
	}
	return "", nil
}

// anyInNeed returns the first of the images that needs the server, "" if there is none.
func (r *run) anyInNeed(paths []string) (string, error) {
	for _, path := range paths {
		if needs, err := r.inNeedOf(path); err != nil || needs {
			return path, err
		}
	}
	return "", nil
}

// openImage opens a file or a block device, by a symbolic link, too. The caller closes it.
func openImage(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if kind := info.Mode() & fs.ModeType; kind != 0 && kind != fs.ModeDevice { // to open some devices does something
		return nil, fmt.Errorf("%s %w", path, localfile.ErrNotRegular)
	}
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// isNoImage tells whether an error of headerOf says that there is something else than a qcow2 image.
func isNoImage(err error) bool {
	return errors.Is(err, qcow2.ErrNotQcow2) || errors.Is(err, localfile.ErrNotRegular) || errors.Is(err, unix.ENXIO)
}

// headerOf reads the header of an image.
func headerOf(path string) (qcow2.Header, error) {
	f, err := openImage(path)
	if err != nil {
		return qcow2.Header{}, err
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		return qcow2.Header{}, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// backingOf is the backing file of an image, by its header.
func backingOf(path string) (string, error) {
	h, err := headerOf(path)
	return h.BackingFile, err
}

// hasImage tells whether a disk of a domain may have an image of the restore, or one on it. What a guest
// writes to a raw disk is no header.
func hasImage(d xml.Disk) bool {
	return (d.Device == "disk" || d.Device == "lun") && d.Format == "qcow2" && len(sources(d)) > 0
}

// restored tells whether a disk is one of those that were restored, wherever its image is now. Of others it
// does not matter if they cannot be read.
func (r *run) restored(d xml.Disk) bool {
	_, known := r.pin.Runs.Sizes[d.Target]
	return known
}

// visible is an error if the image of a disk is not there: its file system may not be mounted, and what the
// image needs is not known.
func (r *run) visible(d xml.Disk) error {
	_, err := os.Stat(d.Source)
	if err == nil {
		return nil
	}
	return fail.WithHint(fmt.Errorf("the image of disk %s of domain %s cannot be seen, and may need %s: %w", d.Target, r.pin.Runs.Name, r.pin.Point, err),
		"mount the file system that it is on, or move it back; if the image is gone for good, virsh edit takes the disk out of the domain")
}

// dirVisible is an error if none of the images is there, and the directory is on another file system than it
// was: that is not mounted, as far as can be told.
func (r *run) dirVisible() error {
	for _, path := range r.images() {
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
	}
	device, err := deviceOf(r.pin.Runs.Dir)
	if err != nil || device == r.pin.Runs.Device {
		return err
	}
	return fail.WithHint(fmt.Errorf("the images in %s cannot be seen, and may need %s", r.pin.Runs.Dir, r.pin.Point), "mount the file system that they are on")
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
