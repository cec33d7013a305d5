package qcow2

import "encoding/binary"

const (
	// refcountOrder 4 is 16 bits for each refcount, QEMU's default. They
	// suffice for the compressed clusters of a host cluster: the smallest
	// frame of a cluster of 2 MiB has 16 blocks of 4 bytes.
	refcountOrder = 4
	refcountBytes = 1 << refcountOrder / 8
	maxRefcount   = 1<<(1<<refcountOrder) - 1
)

// refcounts are those of the host clusters of one file. Where there are no
// compressed clusters each is one, but for the few exceptions, and nothing is
// kept. Where there are some, refcount blocks are kept in memory until they can
// be spilled: all their clusters are allocated, and none can turn out to be
// unused.
type refcounts struct {
	clusterSize int64
	resident    map[int64][]byte // by number; as they will be in the file
	spilled     []int64          // by number, their place in the file; 0: not spilled
	clusters    int64            // of the file; beyond them the refcount is 0
	except      map[int64]uint16 // by host cluster; set in Finish
}

func newRefcounts(clusterSize int) *refcounts {
	return &refcounts{
		clusterSize: int64(clusterSize),
		resident:    map[int64][]byte{},
		except:      map[int64]uint16{},
	}
}

// perBlock is how many refcounts a refcount block of one cluster has.
func perBlock(clusterSize int) int64 { return int64(clusterSize / refcountBytes) }

// number is that of the block that counts the cluster at an offset in the file.
func (r *refcounts) number(offset int64) int64 {
	return offset / r.clusterSize / perBlock(int(r.clusterSize))
}

// claim says that the clusters from an offset on, up to end, hold compressed
// clusters only, none yet.
func (r *refcounts) claim(at, end int64) {
	for ; at < end; at += r.clusterSize {
		binary.BigEndian.PutUint16(r.slot(at), 0)
	}
}

// touch counts a compressed cluster of so many bytes at an offset.
func (r *refcounts) touch(at, length int64) {
	end := at + length
	for at -= at % r.clusterSize; at < end; at += r.clusterSize {
		slot := r.slot(at)
		binary.BigEndian.PutUint16(slot, binary.BigEndian.Uint16(slot)+1)
	}
}

// settle counts clusters that were claimed and not used as ordinary ones.
func (r *refcounts) settle(g gap) {
	for at := g.at; at < g.end; at += r.clusterSize {
		if r.resident[r.number(at)] != nil {
			binary.BigEndian.PutUint16(r.slot(at), 1)
		}
	}
}

// slot is the refcount of the cluster at an offset, in a block in memory.
func (r *refcounts) slot(offset int64) []byte {
	n := r.number(offset)
	p := r.resident[n]
	if p == nil {
		p = make([]byte, r.clusterSize)
		fillOnes(p)
		r.resident[n] = p
	}
	i := offset / r.clusterSize % perBlock(int(r.clusterSize)) * refcountBytes
	return p[i : i+refcountBytes]
}

// spillable returns the number of a block in memory below the one of offset,
// where the stream of compressed clusters is, that no open segment is in.
func (r *refcounts) spillable(offset int64, open ...*segment) (n int64, ok bool) {
next:
	for n := range r.resident {
		if n >= r.number(offset) {
			continue
		}
		for _, s := range open {
			if s != nil && r.number(s.offset) == n {
				continue next
			}
		}
		return n, true
	}
	return 0, false
}

// spill says that a block is in the file, at an offset.
func (r *refcounts) spill(n, offset int64) {
	for int64(len(r.spilled)) <= n {
		r.spilled = append(r.spilled, 0)
	}
	r.spilled[n] = offset
	delete(r.resident, n)
}

// home is where a block was spilled to; 0: it was not.
func (r *refcounts) home(n int64) int64 {
	if n < int64(len(r.spilled)) {
		return r.spilled[n]
	}
	return 0
}

// block fills p with the block of a number that was not spilled.
func (r *refcounts) block(n int64, p []byte) {
	per := perBlock(len(p))
	first := n * per
	if known := r.resident[n]; known != nil {
		copy(p, known)
	} else {
		fillOnes(p)
	}
	used := min(max(r.clusters-first, 0), per)
	clear(p[used*refcountBytes:])
	for cluster, count := range r.except {
		if i := cluster - first; i >= 0 && i < per {
			binary.BigEndian.PutUint16(p[i*refcountBytes:], count)
		}
	}
}

func fillOnes(p []byte) {
	for i := 0; i < len(p); i += refcountBytes {
		binary.BigEndian.PutUint16(p[i:], 1)
	}
}
