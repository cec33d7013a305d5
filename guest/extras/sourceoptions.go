package extras

import (
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
)

// SourceOptions are the options of the image of a disk, as its header has them; none if it is
// not a qcow2 image on this host, or cannot be read. They do not change while QEMU uses the
// image.
func SourceOptions(source, sourceType, format string) manifest.SourceOptions {
	if !strings.HasPrefix(format, "qcow2") || sourceType != "file" && sourceType != "block" {
		return manifest.SourceOptions{}
	}
	f, _, err := open(source)
	if err != nil {
		return manifest.SourceOptions{}
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		return manifest.SourceOptions{}
	}
	options := manifest.SourceOptions{
		Compat: "1.1", ClusterSize: int64(h.ClusterSize), RefcountBits: 1 << h.RefcountOrder, CompressionType: "zlib",
		LazyRefcounts: h.Compatible&qcow2.CompatibleLazyRefcounts != 0,
		ExtendedL2:    h.Incompatible&qcow2.IncompatibleExtendedL2 != 0,
		DataFile:      h.DataFile,
		DataFileRaw:   h.ExternalData() && h.Autoclear&qcow2.AutoclearRawExternalData != 0,
	}
	if h.Version == 2 {
		options.Compat, options.CompressionType = "0.10", ""
	}
	if h.Compression == qcow2.CompressionZstd {
		options.CompressionType = "zstd"
	}
	return options
}
