package extras

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// swtpmDir is where libvirt keeps the state of TPMs (swtpmStorageDir in qemu_conf.c), and reports
// it nowhere: in UUID/tpm2 or UUID/tpm1.2.
const swtpmDir = "/var/lib/libvirt/swtpm"

// swtpmLock is a file of swtpm's that is no state.
const swtpmLock = ".lock"

// maxTPM bounds the state of a TPM: it has some 10 KiB, and no place for more than some 100.
const maxTPM = 16 << 20

const tpmState = "the state of the domain's TPM"

// takeTPM takes the state of an emulated TPM, if the domain is off: while it runs, swtpm has a
// part of it in memory.
func (t *taker) takeTPM(ctx context.Context) error {
	tpm := t.now.TPM
	switch {
	case tpm == nil:
		return nil
	case t.active && t.First:
		t.warn("%s is not in the point, because the domain runs: what is sealed by it (BitLocker, LUKS keys) may need its recovery key after a restore. "+
			"A backup while the domain is shut off has it", tpmState)
		return nil
	case t.active:
		t.note("%s is not in the point, because the domain runs", tpmState)
		return nil
	}
	err := t.storeTPM(ctx, tpm)
	var source *sourceError
	switch {
	case errors.As(err, &source):
		t.warn("%s is not in the point: %v", tpmState, source)
		return nil
	case err == nil && tpm.Secret != "":
		t.warn("%s is encrypted by libvirt's secret %s, which is not in the point: keep it elsewhere (virsh secret-get-value)", tpmState, tpm.Secret)
	}
	return err
}

func (t *taker) storeTPM(ctx context.Context, tpm *xml.TPM) error {
	if tpm.SourceType == "file" {
		return t.store(ctx, manifest.Extra{Kind: manifest.ExtraTPM, File: "tpm", Path: tpm.Source})
	}
	dir := tpm.Source
	if dir == "" {
		dir = stateDir(t.tpmDir, t.Domain.UUID(), tpm.Version)
	}
	e, archive, err := packSteady(dir)
	if err == nil {
		err = e.Validate()
	}
	if err == nil {
		err = t.stillOff()
	}
	if err != nil {
		return &sourceError{dir, err}
	}
	_, e.Size, err = t.Point.CopyFile(e.File, bytes.NewReader(archive))
	if err == nil {
		t.Extras = append(t.Extras, e)
	}
	return errors.Join(err, context.Cause(ctx))
}

// StateDir is where libvirt keeps the state of the TPM of a domain, unless the domain's XML says
// where. version is that of the XML, "2.0" or "1.2".
func StateDir(uuid, version string) string { return stateDir(swtpmDir, uuid, version) }

func stateDir(top, uuid, version string) string {
	if version == "1.2" {
		return filepath.Join(top, uuid, "tpm1.2")
	}
	return filepath.Join(top, uuid, "tpm2")
}

func (t *taker) stillOff() error {
	active, err := t.Domain.Active()
	if err == nil && active {
		err = errUnsteady
	}
	return err
}

// Pack returns the archive of the state of a TPM in a directory, as a point has it: the same files
// make the same archive.
func Pack(dir string) ([]byte, error) { return pack(dir) }

// packSteady packs a directory that does not change meanwhile.
func packSteady(dir string) (manifest.Extra, []byte, error) {
	e := manifest.Extra{Kind: manifest.ExtraTPM, File: "tpm.tar", Path: dir, Format: "tar"}
	info, err := os.Stat(dir)
	if err != nil {
		return e, nil, err
	}
	owner := info.Sys().(*syscall.Stat_t)
	e.Mode, e.UID, e.GID = fmt.Sprintf("%04o", info.Mode().Perm()), int(owner.Uid), int(owner.Gid)
	first, err := pack(dir)
	if err != nil {
		return e, nil, err
	}
	second, err := pack(dir)
	if err == nil && !bytes.Equal(first, second) {
		err = errUnsteady
	}
	return e, first, err
}

// pack returns a tar archive of the files in dir; the same files make the same archive.
func pack(dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, entry := range entries {
		if entry.Name() == swtpmLock {
			continue
		}
		if err := packFile(w, filepath.Join(dir, entry.Name())); err != nil {
			return nil, err
		}
	}
	if archive.Len() == 0 {
		return nil, fmt.Errorf("no files: %w", fs.ErrNotExist)
	}
	err = w.Close()
	return archive.Bytes(), err
}

func packFile(w *tar.Writer, path string) error {
	f, err := localfile.OpenRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxTPM {
		return fmt.Errorf("%s has %d bytes: no state of a TPM has so many", path, info.Size())
	}
	owner := info.Sys().(*syscall.Stat_t)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: info.Name(), Size: info.Size(), Mode: int64(info.Mode().Perm()),
		Uid: int(owner.Uid), Gid: int(owner.Gid), ModTime: info.ModTime().Truncate(time.Second), Format: tar.FormatPAX}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, info.Size())
	return err
}

// Unpack puts the state of a TPM back: the files of an archive of kind manifest.ExtraTPM and
// format tar, into a directory that exists and has none of them. Nothing is written outside of
// dir, whatever the archive has. Files get mode 0600 and the owner of dir, and are on stable
// storage when it returns; after an error some may be there. It returns the paths of the files
// that it has made.
func Unpack(archive io.Reader, dir string) (made []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	r := tar.NewReader(io.LimitReader(archive, 2*maxTPM))
	for {
		header, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return made, localfile.SyncDir(dir)
		case err != nil:
			return made, fmt.Errorf("unpack %s: %w", tpmState, err)
		case header.Typeflag != tar.TypeReg || manifest.ValidName(header.Name) != nil:
			return made, fmt.Errorf("unpack %s: the archive has %q, which is no file of swtpm's", tpmState, header.Name)
		}
		f, err := root.OpenFile(header.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, localfile.FileMode)
		if err != nil {
			return made, fmt.Errorf("unpack %s: %w", tpmState, err)
		}
		path := filepath.Join(dir, header.Name)
		made = append(made, path)
		_, err = io.Copy(f, r)
		if err == nil {
			err = localfile.Sync(f)
		}
		if err = errors.Join(err, f.Close(), ownerOf(dir, path)); err != nil {
			return made, fmt.Errorf("unpack %s: %w", tpmState, err)
		}
	}
}

// ownerOf gives a file the owner of a directory, as far as this user may.
func ownerOf(dir, path string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	if err := os.Lchown(path, int(owner.Uid), int(owner.Gid)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}
