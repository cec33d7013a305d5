package chain

import (
	"github.com/klauspost/compress/zstd"

	"github.com/virtbackup/virtbackup/qcow2"
)

// pureCompressor makes frames without libzstd, which package zstd has.
type pureCompressor struct{ *zstd.Encoder }

func (c pureCompressor) Append(dst, cluster []byte) ([]byte, error) {
	return c.EncodeAll(cluster, dst), nil
}

// frames is for Options.NewCompressor.
func frames(compressed bool) func() qcow2.Compressor {
	if !compressed {
		return nil
	}
	return func() qcow2.Compressor {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err)
		}
		return pureCompressor{e}
	}
}
