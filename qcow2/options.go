package qcow2

import (
	"fmt"
	"strings"
)

const (
	// defaultClusterSize is QEMU's own default, and the largest granularity of
	// libvirt's dirty bitmaps: a dirty bit never covers half a cluster, so an
	// overlay needs no old data merged in.
	defaultClusterSize = 64 << 10

	minClusterSize = 4 << 10 // O_DIRECT wants 4 KiB; qcow2 itself allows 512 bytes

	// MaxClusterSize is the largest that QEMU opens, in bytes.
	MaxClusterSize = 2 << 20

	// QEMU's limits on what it holds in memory (block/qcow2.h: QCOW_MAX_L1_SIZE
	// and QCOW_MAX_REFTABLE_SIZE). Larger images are valid but cannot be opened.
	maxL1Bytes       = 32 << 20
	maxRefTableBytes = 8 << 20

	// sectorSize is the unit of disk sizes and of the lengths of compressed
	// clusters, in bytes.
	sectorSize = 512

	// maxFileBytes is where the 56 bits of an offset in an L2 entry end.
	maxFileBytes = 1 << 56
)

// Options say what image to write. VirtualSize aside, the zero value works: an
// image of 64 KiB clusters without a backing file.
type Options struct {
	VirtualSize   int64  // bytes, any multiple of 512
	ClusterSize   int    // bytes, a power of two from 4 KiB to 2 MiB; 0 means 64 KiB
	BackingFile   string // as stored in the header, relative to the image's directory, or a URI that begins with NBDSocket; "" means none
	BackingFormat string // "qcow2" or "raw"; needed with BackingFile

	// Mark is put into a header extension, at most 256 bytes: whoever finds an image knows by it whose it
	// is. QEMU keeps extensions that it does not know in the image, and copies them to no other one.
	Mark string

	// NewCompressor makes what compresses clusters, several to be used side by
	// side; nil: they are not compressed.
	NewCompressor func() Compressor

	// Frames makes an image that WriteFrames may be used for, whether clusters are
	// compressed here or not.
	Frames bool
}

// compressed tells whether the image may hold compressed clusters.
func (o Options) compressed() bool { return o.Frames || o.NewCompressor != nil }

// Validate says what NewWriter would refuse.
func (o Options) Validate() error {
	o = o.withDefaults()
	cs := o.ClusterSize
	if cs < minClusterSize || cs > MaxClusterSize || cs&(cs-1) != 0 {
		return fmt.Errorf("qcow2 cluster size %d: not a power of two from %d to %d", cs, minClusterSize, MaxClusterSize)
	}
	if o.VirtualSize < 0 || o.VirtualSize%sectorSize != 0 {
		return fmt.Errorf("qcow2 virtual size %d: not a multiple of 512 bytes", o.VirtualSize)
	}
	if limit := o.maxVirtualSize(); o.VirtualSize > limit {
		return fmt.Errorf("qcow2 virtual size %d: more than the %d bytes that QEMU opens with clusters of %d bytes", o.VirtualSize, limit, cs)
	}
	if len(o.Mark) > maxMark {
		return fmt.Errorf("qcow2 mark of %d bytes: more than %d", len(o.Mark), maxMark)
	}
	return o.validateBacking()
}

// NBDSocket begins the one kind of backing file that is no file: an export of an NBD server on a
// socket of this host (the NBD URI specification).
const NBDSocket = "nbd+unix:///"

func (o Options) validateBacking() error {
	if o.BackingFile == "" {
		if o.BackingFormat != "" {
			return fmt.Errorf("qcow2 backing format %q without a backing file", o.BackingFormat)
		}
		return nil
	}
	if err := checkBackingName(o.BackingFile); err != nil {
		return err
	}
	if strings.HasPrefix(o.BackingFile, NBDSocket) {
		return o.validateBackingFormat()
	}
	// QEMU would connect or parse instead of opening a file.
	if before, _, _ := strings.Cut(o.BackingFile, "/"); strings.Contains(before, ":") {
		return fmt.Errorf("qcow2 backing file %q: QEMU reads what stands before the colon as a protocol", o.BackingFile)
	}
	return o.validateBackingFormat()
}

func (o Options) validateBackingFormat() error {
	if o.BackingFormat != "qcow2" && o.BackingFormat != "raw" {
		return fmt.Errorf("qcow2 backing format %q: neither qcow2 nor raw", o.BackingFormat)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.ClusterSize == 0 {
		o.ClusterSize = defaultClusterSize
	}
	return o
}

// maxVirtualSize is the largest disk of which QEMU opens a completely filled
// image: bounded by the L1 table and by the refcount table, of which a
// sixty-fourth is set aside for the metadata's own clusters. No offset in the
// file, of twice the disk at most, may be beyond the bits that L2 entries have.
func (o Options) maxVirtualSize() int64 {
	cs := int64(o.ClusterSize)
	byL1 := maxL1Bytes / 8 * (cs / 8) * cs
	byRefcounts := maxRefTableBytes / 8 * perBlock(o.ClusterSize) * cs
	byOffset := int64(maxFileBytes)
	if o.compressed() {
		byOffset = min(byOffset, 1<<compressedOffsetBits(o.ClusterSize))
	}
	return min(byL1, byRefcounts-byRefcounts/64, byOffset/2)
}

func checkBackingName(name string) error {
	if len(name) > maxBackingName {
		return fmt.Errorf("qcow2 backing file name of %d bytes: more than %d", len(name), maxBackingName)
	}
	if strings.ContainsRune(name, 0) {
		return fmt.Errorf("qcow2 backing file %q: a NUL byte in the name", name)
	}
	return nil
}
