package chain

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

const (
	blockHeader   = 3         // bytes
	frameChecksum = 4         // bytes
	maxBlock      = 128 << 10 // bytes that a block unpacks to at most

	// Types of blocks (RFC 8878, 3.1.1.2.2).
	blockRaw      = 0
	blockRLE      = 1
	blockReserved = 3
)

var errFrameEnds = errors.New("the zstd frame goes on behind the compressed cluster")

// frameLength is how many bytes of p, a compressed cluster and what follows it, the zstd
// frame at its start has; 0 if that does not unpack to just a cluster, so that there may
// be more frames, or says nothing of what it unpacks to. It does not look into blocks.
func frameLength(p []byte, cluster int64) (int, error) {
	var h zstd.Header
	if err := h.Decode(p); err != nil {
		return 0, fmt.Errorf("header of a zstd frame: %w", err)
	}
	if h.Skippable || !h.HasFCS || h.FrameContentSize != uint64(cluster) {
		return 0, nil
	}
	at, unpacked := h.HeaderSize, int64(0)
	for last := false; !last; {
		if len(p)-at < blockHeader {
			return 0, errFrameEnds
		}
		block := uint32(p[at]) | uint32(p[at+1])<<8 | uint32(p[at+2])<<16
		size := int(block >> 3)
		last = block&1 != 0
		at += blockHeader
		switch block >> 1 & 3 {
		case blockReserved:
			return 0, errors.New("a block of a zstd frame has a reserved type")
		case blockRLE:
			unpacked += int64(min(size, maxBlock))
			size = 1
		case blockRaw:
			unpacked += int64(min(size, maxBlock))
		default:
			unpacked += maxBlock
		}
		if len(p)-at < size {
			return 0, errFrameEnds
		}
		at += size
	}
	if unpacked < cluster {
		return 0, fmt.Errorf("the blocks of a zstd frame unpack to %d bytes, it should have %d", unpacked, cluster)
	}
	if h.HasCheckSum {
		at += frameChecksum
	}
	if at > len(p) {
		return 0, errFrameEnds
	}
	return at, nil
}

// Frames reads clusters as Read does, but does not unpack them: frames[i] is the zstd
// frame of the cluster at offsets[i], without what follows it in the image. It is nil for
// a cluster that has none, of which a part is hidden by the end of an image, or whose
// frame is as large as a cluster or does not say that it unpacks to just one: those are
// for Read. The frames are the reader's, until its next call.
func (r *Reader) Frames(offsets []int64) (frames [][]byte, err error) {
	frames = make([][]byte, len(offsets))
	r.frames = r.frames[:0]
	for i := 0; i < len(offsets); {
		n, err := r.framesRun(frames[i:], offsets[i:])
		if err != nil {
			return nil, chainError("read the frame of the cluster at guest offset %d: %w", offsets[i], err)
		}
		i += n
	}
	return frames, nil
}

// framesRun reads the frames of the first of the clusters, and of those behind it that are
// read together with it, and returns their number.
func (r *Reader) framesRun(frames [][]byte, offsets []int64) (int, error) {
	run, err := r.packedRun(offsets)
	if err != nil || len(run.parts) == 0 {
		return 1, err
	}
	for i := range run.parts {
		if offsets[i]+r.chain.cluster > run.layer.visible {
			continue
		}
		packed := run.packed(i)
		n, err := frameLength(packed, r.chain.cluster)
		if err != nil {
			return 0, fmt.Errorf("at offset %d of the image: %w", run.parts[i].Offset, err)
		}
		if n > 0 && int64(n) < r.chain.cluster {
			frames[i] = r.keepFrame(packed[:n])
		}
	}
	return len(run.parts), nil
}

// keepFrame copies a frame to where it stays until the next call. If that memory is full,
// those that are in it stay where they are.
func (r *Reader) keepFrame(frame []byte) []byte {
	if cap(r.frames)-len(r.frames) < len(frame) {
		r.frames = make([]byte, 0, max(2*cap(r.frames), int(r.chain.cluster)))
	}
	start := len(r.frames)
	r.frames = append(r.frames, frame...)
	return r.frames[start:len(r.frames):len(r.frames)]
}
