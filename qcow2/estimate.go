package qcow2

// Content says what an image will hold, to find out how large its file gets.
type Content struct {
	Clusters     int64 // stored as they are
	FrameBytes   int64 // of compressed clusters
	LargestFrame int64 // of them, bytes
	Tables       int64 // L2 tables that are not of zero clusters only
	ZeroTables   int64 // L2 tables that are
}

// FileBytes is how long the file of an image with some content gets at most, in whatever
// order it is written. It is exact but for segments of 1 MiB that do not get full, and that
// tables do not fill: one, two if there are so many tables that they do not stay in
// memory. In an image that may hold compressed clusters there are two more, and, if there are
// plain clusters, too, some percent of the frames' bytes: with clusters of more than 64 KiB, of
// which a segment has few, up to as much again as the frames take.
func (o Options) FileBytes(c Content) int64 {
	o = o.withDefaults()
	e := estimate{cluster: int64(o.ClusterSize), perSegment: max(1, segmentSize/int64(o.ClusterSize))}
	l2 := c.Tables + (c.ZeroTables+maxRefcount-1)/maxRefcount
	spills := c.Tables > int64(maxTableBytes/o.ClusterSize)
	if o.compressed() {
		e.stream(c, spills)
	}
	if c.Clusters+1 >= e.perSegment || o.compressed() && c.Clusters > 0 {
		e.gaps += e.perSegment - 1 // data behind it fills segments
	}
	if spills {
		e.gaps += e.perSegment - 1
	} else {
		e.gaps = max(0, e.gaps-l2) // tables go there
	}
	l1 := clusters(o.VirtualSize, int(e.cluster*e.cluster/8))
	e.clusters += 1 + c.Clusters + l2 + clusters(l1*8, o.ClusterSize) + e.gaps
	e.refcounts()
	return e.clusters * e.cluster
}

// estimate counts the clusters of a file.
type estimate struct {
	cluster    int64 // bytes
	perSegment int64
	clusters   int64
	gaps       int64 // clusters in segments that are not full
}

// stream adds the segments that frames take, as stream.reserve takes them, the rest of the
// first one to begin with.
func (e *estimate) stream(c Content, spills bool) {
	lost := int64(0) // at the end of a run, if others have taken segments
	if c.Clusters > 0 || spills || c.FrameBytes > perBlock(int(e.cluster))*e.cluster/2 {
		lost = c.LargestFrame
	}
	room, taken := (e.perSegment-1)*e.cluster-lost, int64(0)
	for room < c.FrameBytes {
		n := max(1, min(maxRun, taken/runShare))
		taken, room = taken+n, room+n*e.perSegment*e.cluster-lost
	}
	used := clusters(c.FrameBytes, int(e.cluster))
	e.clusters += used
	e.gaps += taken*e.perSegment + e.perSegment - 1 - used
}

// refcounts adds refcount blocks and their table.
func (e *estimate) refcounts() {
	per := perBlock(int(e.cluster))
	for blocks := int64(1); ; blocks++ {
		all := e.clusters + blocks + clusters(blocks*8, int(e.cluster))
		if (all+per-1)/per <= blocks {
			e.clusters = all
			return
		}
	}
}
