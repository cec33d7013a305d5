package restore

import (
	"io"
	"sync/atomic"
)

// rawImage is a sink that makes a sparse raw image: its file has the size of the
// disk and is one hole at first.
type rawImage struct {
	file    io.WriterAt
	size    int64 // of the disk, bytes
	cluster int64 // bytes, the unit of Write's offsets
	data    atomic.Int64
}

// ClusterSize is the unit of Write's offsets, in bytes.
func (r *rawImage) ClusterSize() int { return int(r.cluster) }

// Zero does nothing: the file is one hole at first, a hole reads as zeros, and no
// cluster comes twice.
func (r *rawImage) Zero(offset, length int64) error { return nil }

// Write stores clusters at their own offsets, neighbours in one write, without
// what the last of the disk has behind its end.
func (r *rawImage) Write(offsets []int64, data []byte) error {
	for len(offsets) > 0 {
		n := int64(1)
		for n < int64(len(offsets)) && offsets[n] == offsets[0]+n*r.cluster {
			n++
		}
		p := data[:n*r.cluster]
		if beyond := offsets[0] + int64(len(p)) - r.size; beyond > 0 {
			p = p[:int64(len(p))-beyond]
		}
		if _, err := r.file.WriteAt(p, offsets[0]); err != nil {
			return err
		}
		r.data.Add(int64(len(p)))
		offsets, data = offsets[n:], data[n*r.cluster:]
	}
	return nil
}
