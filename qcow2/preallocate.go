package qcow2

// Preallocate gives every cluster of the disk that was not written a place in the file, where
// it reads as zeros: nothing is written there, so the file gets holes. It is for images without
// a backing file that are not compressed, after all calls of Write and before Finish.
func (w *Writer) Preallocate() error {
	if err := w.usable(); err != nil {
		return err
	}
	cs := int64(w.options.ClusterSize)
	perSegment := w.segs.size / w.options.ClusterSize
	var open []int64 // guest offsets of fewer clusters than fill a segment, from one table to the next
	for i := range w.tables.l1 {
		offsets, err := w.tables.unmapped(i, clusters(w.options.VirtualSize, w.options.ClusterSize))
		if err != nil {
			return w.fail(err)
		}
		for open = append(open, offsets...); len(open) >= perSegment; open = open[perSegment:] {
			if err := w.tables.mapData(open[:perSegment], w.segs.reserve()); err != nil {
				return w.fail(err)
			}
		}
	}
	if len(open) == 0 {
		return nil
	}
	entries, full := w.packAll(len(open), make([]byte, int64(len(open))*cs), nil)
	if err := w.mapAndClose(open, entries, full); err != nil {
		return w.fail(err)
	}
	return nil
}

// unmapped returns the offsets of the guest clusters, of so many that the disk has, that
// table i says nothing of.
func (ts *tables) unmapped(i int, clusters int64) (offsets []int64, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t, err := ts.get(i)
	if err != nil || t == nil {
		return nil, err
	}
	first := int64(i) * ts.perTable
	for k := range min(ts.perTable, clusters-first) {
		if [8]byte(t.entries[k*8:]) == [8]byte{} {
			offsets = append(offsets, (first+k)*int64(ts.clusterSize))
		}
	}
	return offsets, nil
}
