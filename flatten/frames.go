package flatten

import (
	"context"
	"fmt"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// FrameSink is a sink that takes compressed clusters as they are. *qcow2.Writer is one.
type FrameSink interface {
	extent.Sink
	// WriteFrames stores clusters as Write does: frames[i] is a zstd frame, smaller than
	// a cluster, that unpacks to the one at offsets[i]. Frames belong to the caller, who
	// uses their memory again as soon as WriteFrames returns.
	WriteFrames(offsets []int64, frames [][]byte) error
}

// CopyFrames copies as Copy does, but does not unpack compressed clusters if it need not:
// they go to WriteFrames. The bytes that copied is told are those of the guest.
func CopyFrames(ctx context.Context, images *chain.Chain, sink FrameSink, copied func(bytes int64)) error {
	c := &copier{chain: images, sink: sink, frames: sink, copied: copied}
	return c.copy(ctx)
}

// copyFrames copies those of compressed clusters that can be copied as they are, and
// returns the others.
func (c *copier) copyFrames(reader *chain.Reader, offsets []int64) (rest []int64, err error) {
	frames, err := reader.Frames(offsets)
	if err != nil {
		return nil, err
	}
	var packed []int64
	n := 0
	for i, frame := range frames {
		if frame == nil {
			rest = append(rest, offsets[i])
			continue
		}
		packed, frames[n] = append(packed, offsets[i]), frame
		n++
	}
	if n == 0 {
		return rest, nil
	}
	if err := c.frames.WriteFrames(packed, frames[:n]); err != nil {
		return nil, fmt.Errorf("store %d compressed clusters from guest offset %d on: %w", n, packed[0], err)
	}
	return rest, nil
}
