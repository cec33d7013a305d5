package manifest

import (
	"fmt"
	"math/bits"
	"slices"
)

// SourceOptions are the options that a qcow2 image was created with (qemu-img create -o), so
// that a restore can make one like it. They say nothing of the image in the point, which is
// always as docs/format.md describes. The zero value says that they are unknown: the source
// has another format, or the point is of an earlier version.
type SourceOptions struct {
	Compat          string `json:"compat,omitempty"`           // "0.10" or "1.1"
	ClusterSize     int64  `json:"cluster_size,omitempty"`     // bytes, 512 to 2 MiB
	RefcountBits    int    `json:"refcount_bits,omitempty"`    // 1 to 64
	CompressionType string `json:"compression_type,omitempty"` // "zlib" or "zstd"
	LazyRefcounts   bool   `json:"lazy_refcounts,omitempty"`
	ExtendedL2      bool   `json:"extended_l2,omitempty"`
	// DataFile is the name of the external data file, as in the image; relative to the
	// image's directory if it does not start with a slash.
	DataFile    string `json:"data_file,omitempty"`
	DataFileRaw bool   `json:"data_file_raw,omitempty"` // the data file is a valid raw image
}

// Known tells whether the options are known.
func (o SourceOptions) Known() bool { return o != SourceOptions{} }

// validate refuses values that QEMU refuses. A restore passes them to qemu-img, so nothing
// that is not a number or one of a few words is accepted. DataFile is never passed on.
func (o SourceOptions) validate() error {
	switch {
	case !o.Known():
		return nil
	case o.Compat != "0.10" && o.Compat != "1.1":
		return fmt.Errorf("source_options: unknown compat %q", o.Compat)
	case o.ClusterSize < 512 || o.ClusterSize > 2<<20 || bits.OnesCount64(uint64(o.ClusterSize)) != 1:
		return fmt.Errorf("source_options: cluster_size %d is impossible", o.ClusterSize)
	case !slices.Contains([]int{0, 1, 2, 4, 8, 16, 32, 64}, o.RefcountBits):
		return fmt.Errorf("source_options: refcount_bits %d is impossible", o.RefcountBits)
	case !slices.Contains([]string{"", "zlib", "zstd"}, o.CompressionType):
		return fmt.Errorf("source_options: unknown compression_type %q", o.CompressionType)
	}
	return nil
}
