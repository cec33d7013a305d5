// Package pointfile reads and writes the files of a point that are neither images nor hash
// lists: its documents, and what else the domain needs to start (manifest.Extra). The manifest
// has a digest of each as a whole. They may have hundreds of MiB, and are streamed.
package pointfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"lukechampine.com/blake3"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// bufferSize is how much is read at once: enough for the speed of any disk, little enough for
// ctx and progress.
const bufferSize = 1 << 20

// Write makes a new file from all that from has, and puts it on stable storage; its name is
// durable only after an fsync of the directory. After an error there is no file. An error of
// from is returned as it is.
func Write(path string, from io.Reader) (sum string, size int64, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, localfile.FileMode)
	if err != nil {
		return "", 0, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	h := blake3.New(32, nil)
	if size, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, h)}, struct{ io.Reader }{from}, make([]byte, bufferSize)); err != nil {
		return "", 0, err
	}
	return digest.Text(h.Sum(nil)), size, localfile.Sync(f)
}

// Digest reads a regular file and returns its digest; a symbolic link is an error. progress,
// which may be nil, is called with the bytes that were read.
func Digest(ctx context.Context, path string, progress func(bytes int64)) (string, error) {
	f, err := localfile.OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digestOf(ctx, f, progress)
}

// Sum reads all that from has, and returns its digest and its size in bytes.
func Sum(from io.Reader) (sum string, size int64, err error) {
	h := blake3.New(32, nil)
	size, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{from}, make([]byte, bufferSize))
	return digest.Text(h.Sum(nil)), size, err
}

func digestOf(ctx context.Context, f io.Reader, progress func(bytes int64)) (string, error) {
	h := blake3.New(32, nil)
	err := Copy(ctx, h, f, progress)
	return digest.Text(h.Sum(nil)), err
}

// Copy is io.Copy that ends when ctx is cancelled, with its cause.
func Copy(ctx context.Context, to io.Writer, from io.Reader, progress func(bytes int64)) error {
	buffer := make([]byte, bufferSize)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := from.Read(buffer)
		if _, err := to.Write(buffer[:n]); err != nil {
			return err
		}
		if progress != nil {
			progress(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Check compares a file of a point with its digest in the manifest. dir is the point's
// directory. Damage found is not an error.
func Check(ctx context.Context, dir string, m manifest.Manifest, name string, progress func(bytes int64)) ([]damage.Place, error) {
	path := filepath.Join(dir, name)
	d := damage.Place{Domain: m.Domain, Point: m.ID, File: filepath.Join(m.Domain, m.ID, name), Harmless: name == manifest.CheckpointXML}
	sum, err := Digest(ctx, path, progress)
	switch {
	case err == nil && sum == m.Files[name]:
		return nil, nil
	case err == nil:
		d.What = "differs from what was written"
		if info, err := os.Lstat(path); err == nil {
			d.Length = info.Size()
		}
	case ctx.Err() != nil || localfile.CannotCheck(err):
		return nil, err
	default:
		d.What = localfile.Reason(err)
	}
	return []damage.Place{d}, nil
}

// Read returns a small file of a point, once it was compared with its digest in the manifest.
// Damage is a *damage.Error.
func Read(dir string, m manifest.Manifest, name string) ([]byte, error) {
	data, err := localfile.ReadSmall(filepath.Join(dir, name))
	switch {
	case err != nil:
		return nil, broken(m, name, err)
	case digest.Of(data) != m.Files[name]:
		return nil, differs(m, name)
	}
	return data, nil
}

// CopyTo writes the content of a file of a point to a file that the caller has opened, once
// all of it was read and compared with its digest in the manifest. It is compared again while
// it is copied: what was written is right only if the error is nil. Damage is a *damage.Error.
func CopyTo(ctx context.Context, dir string, m manifest.Manifest, name string, to io.Writer) error {
	f, err := localfile.OpenRegular(filepath.Join(dir, name))
	if err != nil {
		return broken(m, name, err)
	}
	defer f.Close()
	switch sum, err := digestOf(ctx, f, nil); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return broken(m, name, err)
	case sum != m.Files[name]:
		return differs(m, name)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := blake3.New(32, nil)
	if err := Copy(ctx, to, io.TeeReader(f, h), nil); err != nil {
		return fmt.Errorf("copy %s of %s: %w", name, m.ID, err)
	}
	if digest.Text(h.Sum(nil)) != m.Files[name] {
		return differs(m, name)
	}
	return nil
}

func differs(m manifest.Manifest, name string) error {
	return damage.OfFile(m, name, fmt.Errorf("%s: differs from what was written", filepath.Join(m.Domain, m.ID, name)))
}

// broken is the error for a file that cannot be read: damage, unless the reason is none of the
// file's.
func broken(m manifest.Manifest, name string, err error) error {
	if localfile.CannotCheck(err) {
		return fmt.Errorf("read %s of %s: %w", name, m.ID, err)
	}
	return damage.OfFile(m, name, fmt.Errorf("%s: %s", filepath.Join(m.Domain, m.ID, name), localfile.Reason(err)))
}
