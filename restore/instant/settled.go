package instant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// At the end of a pull QEMU writes the header without a backing file at once, and the tables of what it
// has pulled when it flushes. If it is killed in between, as by a power cut, what it has pulled last reads
// as zeros, and nothing in the image says so: but every cluster of an image that was pulled is data or
// zeros of its own.

// markOf begins the marks of the images whose export is on a socket (qcow2.Options.Mark); the name of the
// export follows.
func markOf(socket string) string { return filepath.Base(socket) + ":" }

// export is the one that an image was made on, by its mark. Another image of its name has none, nor has a
// copy that qemu-img convert has made.
func (r *run) export(h qcow2.Header) (name string, ours bool) {
	return strings.CutPrefix(h.Mark, markOf(r.pin.Runs.Socket))
}

// unsettled tells whether an image that the restore has made has no backing file, and clusters that it
// says nothing of. What is no such image is settled.
func (r *run) unsettled(path string) (bool, error) {
	f, err := openImage(path)
	if errors.Is(err, fs.ErrNotExist) || isNoImage(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if isNoImage(err) {
		return false, nil
	}
	export, ours := r.export(h)
	if err != nil || h.BackingFile != "" || !ours {
		return false, err
	}
	image, err := chain.Open([]io.ReaderAt{f})
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	size := image.Size()
	if pulled, known := r.pin.Runs.Sizes[export]; known {
		size = min(size, pulled) // the disk may have been enlarged since
	}
	for at := int64(0); at < size; {
		end, state, err := image.RunAt(at)
		if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		if state == chain.Absent {
			return true, nil
		}
		at = end
	}
	return false, nil
}

// giveBack makes the server's export the backing file of an image again, which QEMU does not have open:
// what is missing is read from there, and pulled anew.
func (r *run) giveBack(path string) error {
	if err := fault.Point("instant: give backing file back"); err != nil {
		return err
	}
	h, err := headerOf(path)
	if err != nil {
		return err
	}
	export, ours := r.export(h)
	if !ours {
		return fmt.Errorf("%s is not an image that the restore has made any more", path)
	}
	uri := qcow2.NBDSocket + export + "?socket=" + r.pin.Runs.Socket
	// -u changes the header only, and does not open the backing file.
	cmd := exec.CommandContext(context.Background(), "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", uri, path)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the point the backing file of %s again: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	r.Log.Warn(fmt.Sprintf("QEMU had ended before all that it had pulled was in %s: the rest is pulled again", path))
	return syncFile(path)
}

// syncFile puts a file on stable storage.
func syncFile(path string) error {
	f, err := openImage(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
