package inplace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/guest/extras"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// swtpmDir is where libvirt keeps the state of emulated TPMs (swtpmStorageDir in qemu_conf.c), and
// reports it nowhere: in UUID/tpm2 or UUID/tpm1.2.
const swtpmDir = "/var/lib/libvirt/swtpm"

// extra is a file of the point that is put back, no disk: UEFI variables, the state of a TPM.
type extra struct {
	manifest.Extra
	path string // of the file; for a TPM that of its directory
}

// compareExtras finds what else of the domain differs from the point, and proves it. Where disks
// were chosen, nothing else is put back.
func (r *run) compareExtras(ctx context.Context) error {
	r.extras = nil
	if len(r.Disks) > 0 || len(r.chosen.Extras) == 0 {
		return nil
	}
	boot, err := r.boot()
	if err != nil {
		return err
	}
	for _, e := range r.chosen.Extras {
		path, err := r.extraPath(boot, e)
		if err != nil {
			return err
		}
		if path == "" {
			r.point.Warn(fmt.Sprintf("%s is not put back: the domain has no such file now", e.File))
			continue
		}
		same, err := r.sameExtra(ctx, e, path)
		if err != nil {
			return err
		}
		if same {
			continue
		}
		if by, err := r.otherBooter(e, path); err != nil || by != "" {
			r.point.Warn(fmt.Sprintf("%s differs from the one at %s, and is not put back: domain %s starts with it, too", path, r.chosen.ID, by))
			if err != nil {
				return err
			}
			continue
		}
		if link, err := isLink(e, path); err != nil {
			return err
		} else if link {
			r.point.Warn(fmt.Sprintf("%s differs from the one at %s, and is not put back: it is a symbolic link, and may have led to another file then", path, r.chosen.ID))
			continue
		}
		if sound, err := r.point.ProveFile(ctx, e.File); err != nil {
			return err
		} else if sound {
			r.extras = append(r.extras, extra{e, path})
		}
	}
	return nil
}

// extraPaths are the files besides the disks that will be overwritten: with all, those that may
// be, since it is not known yet which differ.
func (r *run) extraPaths(all bool) (paths []string, err error) {
	if !all {
		for _, e := range r.extras {
			paths = append(paths, e.path)
		}
		return paths, nil
	}
	if len(r.Disks) > 0 || len(r.chosen.Extras) == 0 {
		return nil, nil
	}
	boot, err := r.boot()
	if err != nil {
		return nil, err
	}
	for _, e := range r.chosen.Extras {
		path, err := r.extraPath(boot, e)
		if err != nil {
			return nil, err
		}
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// boot is how the domain starts next time.
func (r *run) boot() (xml.Boot, error) {
	doc, err := r.domain.InactiveXML()
	if err != nil {
		return xml.Boot{}, err
	}
	return xml.ParseBoot(doc)
}

// extraPath is where the domain has an extra now; "" if it has none.
func (r *run) extraPath(boot xml.Boot, e manifest.Extra) (path string, err error) {
	switch e.Kind {
	case manifest.ExtraNVRAM:
		switch {
		case e.Format == "json":
			return boot.VarStore, nil
		case boot.NVRAM != nil && boot.NVRAM.Source != "" && boot.NVRAM.SourceType != "file":
			return "", nil
		case boot.NVRAM != nil && boot.NVRAM.Source != "":
			return boot.NVRAM.Source, nil
		case boot.NVRAM == nil && !boot.AutoFirmware:
			return "", nil
		}
		path, _, err = r.domain.PlannedNVRAM()
		return path, err
	case manifest.ExtraTPM:
		switch tpm := boot.TPM; {
		case tpm == nil || (tpm.SourceType == "file") != (e.Format != "tar"):
			return "", nil
		case tpm.Source != "":
			return tpm.Source, nil
		case tpm.Version == "1.2":
			return filepath.Join(swtpmDir, r.domain.UUID(), "tpm1.2"), nil
		}
		return filepath.Join(swtpmDir, r.domain.UUID(), "tpm2"), nil
	}
	if slices.Contains(bootPaths(boot), e.Path) {
		return e.Path, nil
	}
	return "", nil
}

// bootPaths are files that a domain starts with, and that others may start with, too.
func bootPaths(boot xml.Boot) []string {
	paths := append([]string{boot.Kernel, boot.Initrd, boot.DTB, boot.Shim}, boot.ACPITables...)
	if boot.Loader != nil {
		paths = append(paths, boot.Loader.Source)
	}
	return slices.DeleteFunc(paths, func(path string) bool { return path == "" })
}

// sameExtra tells whether an extra is as it was at the point.
func (r *run) sameExtra(ctx context.Context, e manifest.Extra, path string) (bool, error) {
	var now string
	var err error
	if e.Kind == manifest.ExtraTPM && e.Format == "tar" {
		var archive []byte
		archive, err = extras.Pack(path)
		now = digest.Of(archive)
	} else {
		now, err = digestOf(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return now == r.chosen.Files[e.File], err
}

// digestOf is the digest of a file, which a symbolic link may lead to.
func digestOf(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return localfile.Digest(real)
}

// otherBooter is a domain that starts with the same kernel or firmware, "" if there is none.
func (r *run) otherBooter(e manifest.Extra, path string) (name string, err error) {
	if e.Kind == manifest.ExtraNVRAM || e.Kind == manifest.ExtraTPM {
		return "", nil // a domain's own
	}
	names, err := r.Host.Domains()
	if err != nil {
		return "", err
	}
	for _, name := range names {
		other, err := r.Host.Domain(name)
		if err != nil && !errors.Is(err, hypervisor.ErrNoDomain) {
			return "", err
		}
		if err != nil || other.UUID() == r.domain.UUID() {
			continue
		}
		doc, err := other.InactiveXML()
		if err != nil {
			return "", err
		}
		boot, err := xml.ParseBoot(doc)
		if err != nil {
			return "", err
		}
		if slices.Contains(bootPaths(boot), path) {
			return name, nil
		}
	}
	return "", nil
}

// isLink tells whether the path of a file that is not the domain's own, a kernel or a firmware, is a
// symbolic link. That of a host's kernel leads to another file after each upgrade.
func isLink(e manifest.Extra, path string) (bool, error) {
	if e.Kind == manifest.ExtraNVRAM || e.Kind == manifest.ExtraTPM {
		return false, nil
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode()&fs.ModeSymlink != 0, err
}

// putExtras puts them back. Begun again, it writes them again.
func (r *run) putExtras(ctx context.Context) error {
	for _, e := range r.extras {
		if err := fault.Point("in place: put extra"); err != nil {
			return err
		}
		put := r.putFile
		if e.Kind == manifest.ExtraTPM && e.Format == "tar" {
			put = r.putTPM
		}
		if err := put(ctx, e); err != nil {
			return fmt.Errorf("put %s back: %w", e.path, err)
		}
		r.result.Notes = append(r.result.Notes, fmt.Sprintf("%s is as it was at %s", e.path, r.chosen.ID))
	}
	return nil
}

// putFile overwrites a file, which keeps owner, mode and label, or makes it.
func (r *run) putFile(ctx context.Context, e extra) (err error) {
	f, err := os.OpenFile(e.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, e.Perm())
	if err == nil {
		_ = f.Chown(e.UID, e.GID) // as far as this user may; libvirt does so, too
	} else if errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(e.path, os.O_WRONLY, 0)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := r.point.CopyFile(ctx, e.File, f); err != nil {
		return err
	}
	return errors.Join(localfile.Sync(f), localfile.SyncDir(filepath.Dir(e.path)))
}

// putTPM puts the state of a TPM back: a new directory takes the place of the old one.
func (r *run) putTPM(ctx context.Context, e extra) error {
	var archive bytes.Buffer // some 10 KiB
	if err := r.point.CopyFile(ctx, e.File, &archive); err != nil {
		return err
	}
	fresh := e.path + ".virtbackup-new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return err
	}
	err := localfile.CopyOwner(e.path, fresh)
	there := !errors.Is(err, fs.ErrNotExist)
	if err != nil && there {
		return err
	}
	if _, err := extras.Unpack(&archive, fresh); err != nil {
		return err
	}
	if there {
		err = localfile.Exchange(fresh, e.path)
	} else {
		err = localfile.RenameExclusive(fresh, e.path)
	}
	return errors.Join(err, localfile.SyncDir(filepath.Dir(e.path)), os.RemoveAll(fresh))
}
