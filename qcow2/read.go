package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrNotQcow2 is what errors of ReadHeader wrap where the file is no qcow2
// image at all.
var ErrNotQcow2 = errors.New("not a qcow2 image")

// ReadHeader reads and checks the header of an image from a place that is not
// trusted. It reads no more than the first cluster, 2 MiB at most. What it
// returns is within the bounds of the format; that the tables are where the
// header says, it does not check. Where the backing file may be is for
// the caller to decide.
func ReadHeader(r io.ReaderAt) (Header, error) {
	h, err := readHeader(r)
	if err != nil {
		return Header{}, fmt.Errorf("read qcow2 header: %w", err)
	}
	return h, nil
}

func readHeader(r io.ReaderAt) (Header, error) {
	p, err := readUpTo(r, headerLength)
	if err != nil {
		return Header{}, err
	}
	if len(p) < headerV2Length || string(p[:4]) != magic {
		return Header{}, ErrNotQcow2
	}
	bits := binary.BigEndian.Uint32(p[20:])
	if bits < 9 || bits > 21 {
		return Header{}, fmt.Errorf("cluster_bits %d: not from 9 to 21", bits)
	}
	if p, err = readUpTo(r, 1<<bits); err != nil {
		return Header{}, err
	}
	return parseHeader(p)
}

// readUpTo reads the first n bytes of a file, or all of it where it is shorter.
func readUpTo(r io.ReaderAt, n int) ([]byte, error) {
	p := make([]byte, n)
	got, err := r.ReadAt(p, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return p[:min(max(got, 0), n)], nil
}

// parseHeader parses the first cluster of an image, or what there is of it.
func parseHeader(p []byte) (Header, error) {
	f := fields{p: p}
	h := Header{
		Version:               int(f.u32(4)),
		ClusterSize:           1 << (f.u32(20) & 31),
		VirtualSize:           f.i64(24),
		Encryption:            int(f.u32(32)),
		L1Entries:             int(f.u32(36)),
		L1Offset:              f.i64(40),
		RefcountTableOffset:   f.i64(48),
		RefcountTableClusters: int(f.u32(56)),
		Snapshots:             int(f.u32(60)),
		SnapshotsOffset:       f.i64(64),
		RefcountOrder:         4, // what version 2 always has
	}
	length := headerV2Length
	if h.Version == 3 {
		h.Incompatible = f.u64(72)
		h.Compatible = f.u64(80)
		h.Autoclear = f.u64(88)
		h.RefcountOrder = int(f.u32(96))
		length = int(f.u32(100))
		if length > headerV3Length {
			h.Compression = int(f.u8(104))
		}
	}
	if f.short {
		return Header{}, fmt.Errorf("file of %d bytes ends inside the header", len(p))
	}
	if err := h.check(length); err != nil {
		return Header{}, err
	}
	end, err := h.readBackingFile(p, length)
	if err != nil {
		return Header{}, err
	}
	if err := h.readExtensions(p[:min(end, len(p))], length); err != nil {
		return Header{}, err
	}
	return h, nil
}

// fields reads big endian fields and notes whether one was not there.
type fields struct {
	p     []byte
	short bool
}

func (f *fields) at(offset, n int) []byte {
	if offset+n > len(f.p) {
		f.short = true
		return make([]byte, n)
	}
	return f.p[offset:]
}

func (f *fields) u8(offset int) byte    { return f.at(offset, 1)[0] }
func (f *fields) u32(offset int) uint32 { return binary.BigEndian.Uint32(f.at(offset, 4)) }
func (f *fields) u64(offset int) uint64 { return binary.BigEndian.Uint64(f.at(offset, 8)) }

// i64 returns -1 for what does not fit into an int64; the checks refuse it.
func (f *fields) i64(offset int) int64 {
	v := f.u64(offset)
	if v > math.MaxInt64 {
		return -1
	}
	return int64(v)
}

// check compares the header's fields with the format and QEMU's limits.
func (h Header) check(length int) error {
	cs := int64(h.ClusterSize)
	switch {
	case h.Version != 2 && h.Version != 3:
		return fmt.Errorf("version %d: neither 2 nor 3", h.Version)
	case h.Version == 3 && (length < headerV3Length || length%8 != 0 || length > h.ClusterSize):
		return fmt.Errorf("header_length %d: not a multiple of 8 from %d to the cluster size", length, headerV3Length)
	case h.Incompatible&^knownIncompatible != 0:
		return fmt.Errorf("unknown incompatible features %#x", h.Incompatible&^uint64(knownIncompatible))
	case h.VirtualSize < 0:
		return errors.New("virtual size beyond 2^63 bytes")
	case h.RefcountOrder > 6:
		return fmt.Errorf("refcount_order %d: more than 6", h.RefcountOrder)
	case h.Encryption > 2:
		return fmt.Errorf("unknown encryption method %d", h.Encryption)
	case h.Compression > 1:
		return fmt.Errorf("unknown compression type %d", h.Compression)
	case (h.Compression != 0) != (h.Incompatible&IncompatibleCompression != 0):
		return fmt.Errorf("compression type %d does not go with incompatible features %#x", h.Compression, h.Incompatible)
	case h.L1Offset < 0 || h.L1Offset%cs != 0:
		return errors.New("L1 table is not at the start of a cluster")
	case h.L1Entries > maxL1Bytes/8 || int64(h.L1Entries) < h.Tables():
		return fmt.Errorf("L1 table of %d entries does not go with a disk of %d bytes", h.L1Entries, h.VirtualSize)
	case h.L1Entries > 0 && h.L1Offset == 0:
		return errors.New("L1 table lies over the header")
	case h.RefcountTableOffset <= 0 || h.RefcountTableOffset%cs != 0:
		return errors.New("refcount table is not at the start of a cluster behind the header")
	case h.RefcountTableClusters < 1 || int64(h.RefcountTableClusters)*cs > max(maxRefTableBytes, cs):
		return fmt.Errorf("refcount table of %d clusters", h.RefcountTableClusters)
	case h.Snapshots > 0 && (h.SnapshotsOffset <= 0 || h.SnapshotsOffset%cs != 0):
		return errors.New("snapshot table is not at the start of a cluster behind the header")
	}
	return nil
}

// readBackingFile returns where the header's extensions end at the latest.
func (h *Header) readBackingFile(p []byte, length int) (end int, err error) {
	offset, size := binary.BigEndian.Uint64(p[8:]), binary.BigEndian.Uint32(p[16:])
	if offset == 0 {
		return h.ClusterSize, nil
	}
	if offset < uint64(length) || offset > uint64(h.ClusterSize) ||
		size > maxBackingName || offset+uint64(size) > uint64(h.ClusterSize) {
		return 0, fmt.Errorf("backing file name of %d bytes at offset %d: not inside the first cluster behind the header", size, offset)
	}
	if offset+uint64(size) > uint64(len(p)) {
		return 0, fmt.Errorf("file of %d bytes ends inside the backing file name", len(p))
	}
	h.BackingFile = string(p[offset : offset+uint64(size)])
	if size == 0 {
		return int(offset), nil
	}
	return int(offset), checkBackingName(h.BackingFile)
}

// readExtensions walks the header extensions in p from offset on. They end with
// one of type 0, or with p.
func (h *Header) readExtensions(p []byte, offset int) error {
	for offset+8 <= len(p) {
		kind, size := binary.BigEndian.Uint32(p[offset:]), binary.BigEndian.Uint32(p[offset+4:])
		if kind == extensionEnd {
			return nil
		}
		offset += 8
		if uint64(size) > uint64(len(p)-offset) {
			return fmt.Errorf("header extension %#x of %d bytes at offset %d: not inside the first cluster", kind, size, offset-8)
		}
		if kind == extensionBackingFormat {
			format := p[offset : offset+int(size)]
			if len(format) > maxBackingFormat || bytes.IndexByte(format, 0) >= 0 {
				return fmt.Errorf("backing format %.32q: not a name of at most %d bytes", format, maxBackingFormat)
			}
			h.BackingFormat = string(format)
		}
		if kind == extensionDataFile {
			h.DataFile = string(p[offset : offset+int(size)])
		}
		if kind == extensionMark && size <= maxMark {
			h.Mark = string(p[offset : offset+int(size)])
		}
		offset += (int(size) + 7) &^ 7
	}
	return nil
}
