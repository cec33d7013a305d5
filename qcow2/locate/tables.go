package locate

import (
	"encoding/binary"
	"io"

	"github.com/virtbackup/virtbackup/qcow2"
)

// tableRead is how much of a table is read at once.
const tableRead = 1 << 20

// Tables calls found with the parts of an image file that describe where its data is: the
// header's cluster, the L1 table and the L2 tables, the refcount table and its blocks, in no
// order. It does not read L2 tables and refcount blocks themselves.
//
// The image is not trusted: a table that cannot be read leads nowhere, and what is in a
// damaged one may be wrong, and outside of the file. The parts that lead there were found
// before, so whoever compares all parts with their hashes finds that out.
func Tables(r io.ReaderAt, h qcow2.Header, found func(qcow2.Range)) {
	cluster := int64(h.ClusterSize)
	found(qcow2.Range{Offset: 0, Length: cluster})
	refcounts := int64(h.RefcountTableClusters) * cluster
	for _, table := range []qcow2.Range{{Offset: h.L1Offset, Length: int64(h.L1Entries) * 8}, {Offset: h.RefcountTableOffset, Length: refcounts}} {
		found(table)
		entries(r, table, func(entry uint64) {
			// A refcount block's offset has the bits of an L2 table's, and is in a cluster, too.
			if at := qcow2.TableOffset(entry); at != 0 {
				found(qcow2.Range{Offset: at, Length: cluster})
			}
		})
	}
}

func entries(r io.ReaderAt, table qcow2.Range, each func(entry uint64)) {
	buf := make([]byte, min(tableRead, max(table.Length, 0)))
	for at := table.Offset; at < table.End(); at += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), table.End()-at)]
		n, _ := r.ReadAt(p, at)
		for p = p[:n]; len(p) >= 8; p = p[8:] {
			each(binary.BigEndian.Uint64(p))
		}
	}
}
