package restore

import (
	"cmp"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
)

// Format of the images that a restore makes.
type Format string

// The formats. A qcow2 image has the options of the qcow2 image that the disk was, as far as the
// point knows them. Without preallocation both are sparse: what reads as zeros takes no space.
const (
	QCOW2 Format = "qcow2"
	Raw   Format = "raw"
	// AsSource is raw for a disk that was raw, and qcow2 for any other.
	AsSource Format = "source"
)

// of is the format for a disk.
func (f Format) of(d manifest.Disk) Format {
	switch {
	case f != AsSource:
		return f
	case d.SourceFormat == string(Raw):
		return Raw
	}
	return QCOW2
}

// Preallocation says how much of an image gets its space before the guest writes to it. The
// words are qemu-img's.
type Preallocation string

// The preallocations.
const (
	PreallocateOff      Preallocation = "off"
	PreallocateMetadata Preallocation = "metadata" // qcow2 only: all tables
	PreallocateFalloc   Preallocation = "falloc"   // all space, by posix_fallocate(3)
	PreallocateFull     Preallocation = "full"     // all space, written with zeros
)

// Request is what a restore is asked to do.
type Request struct {
	Domain string
	// At is a point ("check3"), a time (see [manifest.Resolve]), or "latest"; "" is
	// "latest".
	At string
	// Dir takes the images. It must be empty, but for what a killed restore has left there, or
	// not exist. Symbolic links are
	// followed as the kernel follows them (localfile.RealPath).
	Dir string
	// Output, for [Output], takes the one disk of Disks: a new file, a block device, or "-" for
	// Stdout, which gets raw bytes. A device takes raw bytes, too. Symbolic links are followed.
	Output string
	Stdout io.Writer
	// Users, if set, says who uses a block device that is not open now: domains that are shut
	// off.
	Users func(ctx context.Context, device string) ([]string, error)
	// Disks are the targets to restore, none means all. Where some are named, they are
	// restored even if the domain's XML is damaged.
	Disks  []string
	Format Format // "" is QCOW2, or Raw where only that can be
	// Preallocation of the images; "" is PreallocateOff.
	Preallocation Preallocation
	// Zstd is the level that qcow2 images are compressed with, 0 for none.
	Zstd int

	// Overlay, if set, is the backing file of a disk's image, which then has no data of its own:
	// a raw image that shows the disk as it was, wherever it is. Of the disks only the
	// tables are read. The format is QCOW2.
	Overlay func(target string) (backing string)
	// Mark is what is put into the header of an overlay (qcow2.Options.Mark), if set.
	Mark func(target string) string

	// Finish, if set, is called when all is in Dir, before the restore counts as done: if it
	// fails, or the process is killed before it returns, what was made is removed, by the
	// next restore at the latest. It makes nothing in Dir.
	Finish func(ctx context.Context, result *Result) error
	// Undo, if set, undoes what Finish has done outside of Dir. It is called before the files
	// in Dir are removed that Finish may have put to use: if this restore fails in Finish or
	// after it, and where a killed one has left files. If Undo fails they stay.
	Undo func() error
	// Defines is the UUID of the domain that Finish defines; see [Marked].
	Defines string
	// DirMode is the mode of directories that are made; 0 is 0700.
	DirMode fs.FileMode

	// Salvage restores what can be restored from damaged images: what is unknown is zeros, and
	// Result.Lost tells where. Nothing else is restored that was not proven.
	Salvage bool
	// Limits are shared with other runs of this process; nil: this one has its own.
	Limits *limit.Limits
	// Log gets what happens. nil means none.
	Log *slog.Logger
	// Progress, if set, is told how many bytes of a disk are restored, and how
	// many its images hold. Calls come often, from several goroutines.
	Progress func(target string, copied, expected int64)
}

func (r Request) validate() error {
	switch {
	case !slices.Contains([]Format{QCOW2, Raw, AsSource}, r.Format):
		return fail.Errorf(fail.Usage, "--format qcow2, raw or source", "unknown format %q", r.Format)
	case !slices.Contains([]Preallocation{PreallocateOff, PreallocateMetadata, PreallocateFalloc, PreallocateFull}, r.Preallocation):
		return fail.Errorf(fail.Usage, "--preallocation off, metadata, falloc or full", "unknown preallocation %q", r.Preallocation)
	case r.Zstd != 0 && r.Preallocation != PreallocateOff:
		return fail.Errorf(fail.Usage, "leave out one of them", "compression and preallocation exclude each other: where compressed clusters go is unknown beforehand")
	}
	return nil
}

// validateFor refuses what the format of a disk has not.
func (r Request) validateFor(d manifest.Disk) error {
	if r.Format.of(d) != Raw {
		return nil
	}
	switch {
	case r.Zstd != 0:
		return fail.Errorf(fail.Usage, "--format qcow2", "disk %s would be a raw image, which cannot be compressed", d.Target)
	case r.Preallocation == PreallocateMetadata:
		return fail.Errorf(fail.Usage, "--preallocation falloc", "disk %s would be a raw image, which has no metadata to preallocate", d.Target)
	}
	return nil
}

// ImageOf is where the image of a disk is going to be, in a directory without symbolic links,
// and its format.
func (r Request) ImageOf(d manifest.Disk) (path string, format Format) {
	format = cmp.Or(r.Format, QCOW2).of(d)
	return filepath.Join(r.Dir, d.Target+"."+string(format)), format
}

// XMLName is the name of the file with the domain's XML.
func (r Request) XMLName() string { return strings.ReplaceAll(r.Domain, "/", "_") + ".xml" }

func (r Request) withDefaults() Request {
	if r.At == "" {
		r.At = manifest.Latest
	}
	if r.DirMode == 0 {
		r.DirMode = 0o700
	}
	if r.Preallocation == "" {
		r.Preallocation = PreallocateOff
	}
	if r.Limits == nil {
		r.Limits = limit.New(0)
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Progress == nil {
		r.Progress = func(string, int64, int64) {}
	}
	return r
}
