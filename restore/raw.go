package restore

import (
	"io"
)

// rawCluster is the unit that zeros are left out in.
const rawCluster = 64 << 10

// rawImage is a sparse raw image of a disk: an nbdcopy.Sink.
type rawImage struct {
	file io.WriterAt
	size int64 // of the disk, bytes
}

// ClusterSize is the unit of Write's offsets.
func (r rawImage) ClusterSize() int { return rawCluster }

// Write stores clusters at their own offsets, neighbours in one write.
func (r rawImage) Write(offsets []int64, data []byte) error {
	for len(offsets) > 0 {
		n := 1
		for n < len(offsets) && offsets[n] == offsets[0]+int64(n)*rawCluster {
			n++
		}
		p := data[:n*rawCluster]
		if beyond := offsets[0] + int64(len(p)) - r.size; beyond > 0 {
			p = p[:int64(len(p))-beyond]
		}
		if _, err := r.file.WriteAt(p, offsets[0]); err != nil {
			return err
		}
		offsets, data = offsets[n:], data[n*rawCluster:]
	}
	return nil
}

// Zero does nothing: the file was made with holes.
func (r rawImage) Zero(int64, int64) error { return nil }
