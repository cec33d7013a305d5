package extras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/xml"
)

// errBacking says that a qcow2 file is not all of its content.
var errBacking = errors.New("it needs a further file")

const (
	nvramFile = "nvram.fd"
	variables = "the UEFI variables"
)

// takeNVRAM takes the UEFI variables.
func (t *taker) takeNVRAM(ctx context.Context) error {
	if path := t.now.VarStore; path != "" {
		return t.takeFile(ctx, manifest.Extra{Kind: manifest.ExtraNVRAM, File: "nvram.json", Path: path, Format: "json"}, variables)
	}
	if l := t.now.Loader; l != nil && t.now.NVRAM == nil && t.now.LoaderWritable {
		return nil // takeFiles takes firmware that has its variables in it
	}
	nvram, err := t.nvram()
	switch {
	case err != nil:
		t.warn("%s are not in the point: %v", variables, err)
		return nil
	case nvram == nil:
		return nil
	case t.active && (nvram.Format != "raw" || !local(nvram)):
		return t.askQEMU(ctx, nvram)
	case !local(nvram):
		t.warn("%s are not in the point: those on %s can be read only while the domain runs", variables, nvram.Source)
		return nil
	case nvram.Format == "qcow2":
		if err := complete(nvram.Source); err != nil {
			t.warn("%s are not in the point: %v", variables, &sourceError{nvram.Source, err})
			return nil
		}
	}
	err = t.store(ctx, manifest.Extra{Kind: manifest.ExtraNVRAM, File: nvramFile, Path: nvram.Source, Format: nvram.Format})
	var source *sourceError
	switch {
	case errors.Is(err, errUnsteady) && t.active:
		return t.askQEMU(ctx, nvram)
	case errors.As(err, &source):
		t.warn("%s are not in the point: %v", variables, source)
		return nil
	}
	return err
}

// nvram finds where the variables are; nil if the domain has none.
func (t *taker) nvram() (*xml.BootFile, error) {
	if n := t.now.NVRAM; n != nil && n.Source != "" {
		return n, nil
	}
	if t.active || !t.now.AutoFirmware && t.now.NVRAM == nil {
		return nil, nil
	}
	path, format, err := t.Domain.PlannedNVRAM()
	if err != nil || path == "" {
		return nil, err
	}
	return &xml.BootFile{Source: path, SourceType: "file", Format: format}, nil
}

func local(f *xml.BootFile) bool { return f.SourceType == "file" || f.SourceType == "block" }

// complete refuses a qcow2 file that has a backing file or an external data file.
func complete(path string) error {
	f, _, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err == nil && (h.BackingFile != "" || h.ExternalData()) {
		err = errBacking
	}
	return err
}

// askQEMU has a running domain's QEMU copy the variables, which libvirt notes as a taint: for
// those in a qcow2 file, of which QEMU has parts in memory, those that are not in a file or on a
// block device, and those that are written to all the time.
func (t *taker) askQEMU(ctx context.Context, nvram *xml.BootFile) error {
	raw, err := anonymous()
	if err != nil {
		t.warn("%s are not in the point: %v", variables, err)
		return nil
	}
	defer raw.Close()
	if err := t.Domain.CopyNVRAM(ctx, raw); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.warn("%s are not in the point: %v", variables, err)
		return nil
	}
	t.Moves()
	e := manifest.Extra{Kind: manifest.ExtraNVRAM, File: nvramFile, Format: nvram.Format, Mode: "0600"}
	if local(nvram) {
		e.Path = nvram.Source
		if f, stat, err := open(nvram.Source); err == nil {
			e.Mode, e.UID, e.GID = fmt.Sprintf("%04o", stat.Mode&0o777), int(stat.Uid), int(stat.Gid)
			f.Close()
		}
	}
	if err := e.Validate(); err != nil {
		t.warn("%s are not in the point: %v", variables, err)
		return nil
	}
	content := raw
	if nvram.Format == "qcow2" {
		if content, err = toQCOW2(raw); err != nil {
			t.warn("%s are not in the point: %v", variables, err)
			return nil
		}
		defer content.Close()
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, e.Size, err = t.Point.CopyFile(e.File, content); err != nil {
		return err
	}
	t.Extras = append(t.Extras, e)
	return nil
}

// anonymous makes a file without a name.
func anonymous() (*os.File, error) {
	f, err := os.CreateTemp("", "virtbackup-nvram-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// toQCOW2 makes a qcow2 image of a raw file. The caller closes it.
func toQCOW2(raw *os.File) (image *os.File, err error) {
	info, err := raw.Stat()
	if err != nil {
		return nil, err
	}
	if image, err = anonymous(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			image.Close()
		}
	}()
	w, err := qcow2.NewWriter(image, qcow2.Options{VirtualSize: info.Size()})
	if err != nil {
		return nil, err
	}
	buffer := directio.Buffer(w.ClusterSize())
	for at := int64(0); at < info.Size(); at += int64(len(buffer)) {
		clear(buffer)
		if _, err := raw.ReadAt(buffer, at); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := w.Write([]int64{at}, buffer); err != nil {
			return nil, err
		}
	}
	_, err = w.Finish(func() error { return nil })
	return image, err
}
