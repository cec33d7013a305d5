package graft

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// refcountOrder is that of package qcow2: refcounts of 16 bits.
	refcountOrder = 4
	refcountBytes = 2
	maxRefcount   = 1<<16 - 1

	// maxBlocks are kept in memory: 16 MiB of refcount blocks of 64 KiB, those of 512 GiB
	// of image. Clusters are allocated and freed all over the image.
	maxBlocks = 256
)

// refcounts are those of the host clusters of an image.
type refcounts struct {
	file    File
	cluster int64
	table   []uint64 // where each block is in the file; 0: nowhere, its refcounts are 0
	changed bool     // the table was
	blocks  map[int64]*block
	clock   int64
}

// block is one refcount block in memory.
type block struct {
	p     []byte
	dirty bool
	used  int64 // by the clock
}

func (r *refcounts) perBlock() int64 { return r.cluster / refcountBytes }

// has tells whether the refcount of a cluster has a place.
func (r *refcounts) has(cluster int64) bool {
	n := cluster / r.perBlock()
	return n < int64(len(r.table)) && r.table[n] != 0
}

// add gives the block that counts a cluster a place, where nothing was yet.
func (r *refcounts) add(cluster, offset int64) error {
	n := cluster / r.perBlock()
	for int64(len(r.table)) <= n {
		r.table = append(r.table, 0)
	}
	r.table[n], r.changed = uint64(offset), true
	if err := r.makeRoom(); err != nil {
		return err
	}
	r.blocks[n] = &block{p: make([]byte, r.cluster), dirty: true}
	return nil
}

// get is the refcount of a cluster.
func (r *refcounts) get(cluster int64) (int, error) {
	if !r.has(cluster) {
		return 0, nil
	}
	b, err := r.block(cluster / r.perBlock())
	if err != nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint16(b.p[cluster%r.perBlock()*refcountBytes:])), nil
}

// set changes the refcount of a cluster, which has a place.
func (r *refcounts) set(cluster int64, count int) error {
	if count > maxRefcount {
		return fmt.Errorf("the refcount of the cluster at offset %d would be %d", cluster*r.cluster, count)
	}
	b, err := r.block(cluster / r.perBlock())
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(b.p[cluster%r.perBlock()*refcountBytes:], uint16(count))
	b.dirty = true
	return nil
}

// nextFree is the first cluster from one on, and before another one, whose refcount has a
// place and is 0; -1 if there is none.
func (r *refcounts) nextFree(from, to int64) (int64, error) {
	for from < to {
		end := min(to, (from/r.perBlock()+1)*r.perBlock())
		if !r.has(from) {
			from = end
			continue
		}
		b, err := r.block(from / r.perBlock())
		if err != nil {
			return 0, err
		}
		for ; from < end; from++ {
			if at := from % r.perBlock() * refcountBytes; b.p[at]|b.p[at+1] == 0 {
				return from, nil
			}
		}
	}
	return -1, nil
}

// block brings a block to memory.
func (r *refcounts) block(n int64) (*block, error) {
	r.clock++
	b := r.blocks[n]
	if b == nil {
		if err := r.makeRoom(); err != nil {
			return nil, err
		}
		b = &block{p: make([]byte, r.cluster)}
		if err := readFull(r.file, b.p, int64(r.table[n])); err != nil {
			return nil, fmt.Errorf("read refcount block %d: %w", n, err)
		}
		r.blocks[n] = b
	}
	b.used = r.clock
	return b, nil
}

// makeRoom writes the block that was not used for longest, if there are as many as may be.
func (r *refcounts) makeRoom() error {
	if len(r.blocks) < maxBlocks {
		return nil
	}
	oldest := int64(-1)
	for n, b := range r.blocks {
		if oldest < 0 || b.used < r.blocks[oldest].used {
			oldest = n
		}
	}
	if err := r.write(oldest); err != nil {
		return err
	}
	delete(r.blocks, oldest)
	return nil
}

func (r *refcounts) write(n int64) error {
	b := r.blocks[n]
	if !b.dirty {
		return nil
	}
	if _, err := r.file.WriteAt(b.p, int64(r.table[n])); err != nil {
		return fmt.Errorf("write refcount block %d: %w", n, err)
	}
	b.dirty = false
	return nil
}

// flush writes all that has changed.
func (r *refcounts) flush() error {
	for n := range int64(len(r.table)) {
		if r.blocks[n] != nil {
			if err := r.write(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// readFull fills p from the file.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(p), off, err)
}
