package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/drill/remains"
	"github.com/virtbackup/virtbackup/guest/extras"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
	"github.com/virtbackup/virtbackup/qcow2"
)

// tpmDirMode is that of directories above the state of a TPM: swtpm's user can enter them.
const tpmDirMode = 0o711

// cleanUp takes away what earlier drills of the domain have left.
func (d *drill) cleanUp() error {
	found, err := remains.Clean(d.repo, d.point.Domain, d.host, false)
	for _, what := range found.Removed {
		d.Log.Info("cleaned up after an earlier drill: " + what)
	}
	for _, what := range found.Left {
		d.Log.Warn("left by an earlier drill: " + what)
	}
	return err
}

// makeFiles makes the drill's directory, and the files that the domain starts with. What is read of
// the point is proven.
func (d *drill) makeFiles(ctx context.Context) error {
	uid, gid := -1, -1
	if d.user != nil {
		uid, gid = d.user.UID, d.user.GID
	}
	if err := d.running.MakeDir(uid, gid); err != nil {
		return fmt.Errorf("make the drill's directory: %w", err)
	}
	return d.repo.Read(ctx, d.point.Domain, func() error {
		for _, f := range d.files {
			if err := d.copyFile(ctx, f); err != nil {
				return fmt.Errorf("copy %s of %s@%s: %w", f.extra.File, d.point.Domain, d.point.ID, err)
			}
		}
		return d.makeTPM(ctx)
	})
}

func (d *drill) copyFile(ctx context.Context, c copied) (err error) {
	f, err := d.create(c.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pointfile.CopyTo(ctx, d.pointDir(), d.point, c.extra.File, f); err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600|c.extra.Perm()&0o500), d.give(f))
}

func (d *drill) pointDir() string { return d.repo.PointDir(d.point.Domain, d.point.ID) }

// create makes a file in the drill's directory, which belongs to QEMU's user: it follows no link.
func (d *drill) create(path string) (*os.File, error) {
	if err := fault.Point("drill: create file"); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, localfile.FileMode)
}

// give makes QEMU's user the owner of a file, which may not be at its path any more.
func (d *drill) give(f *os.File) error {
	if d.user == nil {
		return nil
	}
	return f.Chown(d.user.UID, d.user.GID)
}

func (d *drill) giveSocket(path string) error {
	if d.user == nil {
		return nil
	}
	return localfile.GiveSocket(path, d.user.UID, d.user.GID)
}

// makeTPM puts the state of the TPM where libvirt looks for it, by the UUID of the drill's domain.
func (d *drill) makeTPM(ctx context.Context) error {
	if !d.machine.TPM {
		return nil
	}
	for _, e := range d.point.ExtrasOf(manifest.ExtraTPM) {
		if e.Format != "tar" {
			continue
		}
		var archive bytes.Buffer // some 10 KiB
		if err := pointfile.CopyTo(ctx, d.pointDir(), d.point, e.File, &archive); err != nil {
			return fmt.Errorf("copy the state of the TPM: %w", err)
		}
		if err := fault.Point("drill: put TPM"); err != nil {
			return err
		}
		state := filepath.Join(d.note.TPMDir(), stateName(e))
		if err := os.MkdirAll(filepath.Dir(state), tpmDirMode); err != nil {
			return err
		}
		if err := os.Mkdir(state, localfile.DirMode); err != nil {
			return err
		}
		_, err := extras.Unpack(&archive, state)
		return err
	}
	d.result.Notes = append(d.result.Notes, "the state of the TPM is not in the point: it began empty")
	return nil
}

// stateName is the directory of a state below that of the UUID, by the version of the TPM.
func stateName(e manifest.Extra) string {
	const old = "tpm1.2"
	if filepath.Base(e.Path) == old {
		return old
	}
	return "tpm2"
}

// makeOverlays makes an image for each disk, without data, on what the server shows.
func (d *drill) makeOverlays() error {
	for _, target := range d.machine.Targets {
		disk, _ := d.point.Disk(target)
		backing := qcow2.NBDSocket + target + "?socket=" + filepath.Join(d.running.Dir(), serverName)
		if err := d.makeOverlay(filepath.Join(d.running.Dir(), target+imageSuffix), disk.VirtualSize, backing); err != nil {
			return fmt.Errorf("make the overlay of disk %s: %w", target, err)
		}
	}
	return nil
}

func (d *drill) makeOverlay(path string, size int64, backing string) (err error) {
	f, err := d.create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, err := qcow2.NewWriter(f, qcow2.Options{VirtualSize: size, BackingFile: backing, BackingFormat: "raw"})
	if err != nil {
		return err
	}
	stats, err := w.Finish(nil) // it is thrown away: nothing to put on stable storage
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(stats.FileBytes), d.give(f))
}
