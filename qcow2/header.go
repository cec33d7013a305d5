package qcow2

import "encoding/binary"

const (
	magic = "QFI\xfb"

	headerV2Length = 72
	headerV3Length = 104 // the least of version 3
	headerLength   = 112 // what is written: with compression_type and its padding

	// CompressionZstd is the compression type of zstd frames; that of zlib is 0.
	CompressionZstd = 1

	extensionEnd           = 0
	extensionBackingFormat = 0xE2792ACA
	extensionDataFile      = 0x44415441
	extensionMark          = 0x76626d6b // "vbmk": ours; QEMU keeps what it does not know

	maxMark          = 256  // bytes
	maxBackingName   = 1023 // bytes, as in QEMU
	maxBackingFormat = 15   // bytes, as in QEMU
)

// Incompatible feature bits: a reader that does not know one must not go on.
const (
	IncompatibleDirty        = 1 << 0 // the refcounts may be wrong
	IncompatibleCorrupt      = 1 << 1 // the tables may be wrong
	IncompatibleExternalData = 1 << 2 // the clusters are in another file
	IncompatibleCompression  = 1 << 3 // the compression type is not zlib
	IncompatibleExtendedL2   = 1 << 4 // L2 entries of 16 bytes, with subclusters

	knownIncompatible = 1<<5 - 1
)

// Feature bits that a reader may ignore.
const (
	CompatibleLazyRefcounts  = 1 << 0
	AutoclearRawExternalData = 1 << 1 // the external data file is a raw image
)

// Header is what an image says of itself.
type Header struct {
	Version       int   // 2 or 3
	ClusterSize   int   // bytes
	VirtualSize   int64 // bytes
	BackingFile   string
	BackingFormat string // "" where the image does not say
	DataFile      string // name of the external data file; "" where the image does not say
	Mark          string // Options.Mark, "" for none

	L1Entries             int
	L1Offset              int64 // bytes, of a cluster
	RefcountTableOffset   int64 // bytes, of a cluster
	RefcountTableClusters int
	RefcountOrder         int // refcounts have 1<<RefcountOrder bits
	Snapshots             int // internal ones
	SnapshotsOffset       int64
	Encryption            int // 0: none

	Incompatible uint64 // feature bits, the known ones only
	Compatible   uint64
	Autoclear    uint64
	Compression  int // 0: zlib, 1: zstd
}

// Dirty tells whether the image was not closed properly.
func (h Header) Dirty() bool { return h.Incompatible&IncompatibleDirty != 0 }

// Corrupt tells whether QEMU found the image damaged.
func (h Header) Corrupt() bool { return h.Incompatible&IncompatibleCorrupt != 0 }

// ExternalData tells whether the guest's data is in another file.
func (h Header) ExternalData() bool { return h.Incompatible&IncompatibleExternalData != 0 }

// Encode returns the header with its extensions and the backing name, which
// Options.Validate bounds so that it all fits into the smallest cluster.
func (h Header) Encode() []byte {
	be := binary.BigEndian
	p := make([]byte, headerLength)
	copy(p, magic)
	be.PutUint32(p[4:], uint32(h.Version))
	be.PutUint32(p[20:], uint32(clusterBits(h.ClusterSize)))
	be.PutUint64(p[24:], uint64(h.VirtualSize))
	be.PutUint32(p[36:], uint32(h.L1Entries))
	be.PutUint64(p[40:], uint64(h.L1Offset))
	be.PutUint64(p[48:], uint64(h.RefcountTableOffset))
	be.PutUint32(p[56:], uint32(h.RefcountTableClusters))
	be.PutUint64(p[72:], h.Incompatible)
	be.PutUint64(p[80:], h.Compatible)
	be.PutUint64(p[88:], h.Autoclear)
	be.PutUint32(p[96:], uint32(h.RefcountOrder))
	be.PutUint32(p[100:], headerLength)
	p[104] = byte(h.Compression)
	if h.BackingFormat != "" {
		p = appendExtension(p, extensionBackingFormat, h.BackingFormat)
	}
	if h.Mark != "" {
		p = appendExtension(p, extensionMark, h.Mark)
	}
	p = appendExtension(p, extensionEnd, "")
	if h.BackingFile != "" {
		be.PutUint64(p[8:], uint64(len(p)))
		be.PutUint32(p[16:], uint32(len(h.BackingFile)))
		p = append(p, h.BackingFile...)
	}
	return p
}

func appendExtension(p []byte, kind uint32, data string) []byte {
	p = binary.BigEndian.AppendUint32(p, kind)
	p = binary.BigEndian.AppendUint32(p, uint32(len(data)))
	p = append(p, data...)
	return append(p, make([]byte, -len(data)&7)...)
}

func clusterBits(clusterSize int) int {
	n := 0
	for 1<<n < clusterSize {
		n++
	}
	return n
}
