// Package qcow2 writes qcow2 version 3 images from outside QEMU, each cluster
// once and in any order, and reads the headers of images that it does not
// trust. The format is that of QEMU's docs/interop/qcow2.rst.
package qcow2

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Stats say what an image holds, in bytes.
type Stats struct {
	DataBytes int64 // guest bytes in data clusters
	ZeroBytes int64 // guest bytes given to Zero
	FileBytes int64 // length of the image file
}

// Writer writes one image. Clusters go to the file in the order of the calls,
// collected in segments of 1 MiB; the tables that find them follow in Finish.
// Until Finish the file has no header, so it is no qcow2 image.
//
// Memory does not grow with the disk but for 8 bytes for each L2 table of the
// disk (512 MiB with clusters of 64 KiB): some 20 MiB, and 1 MiB for each
// concurrent call of Write; to compress, about as much for each of at most four.
type Writer struct {
	options Options
	segs    *segments
	tables  *tables

	compressors *compressors // nil: nothing is compressed here

	mu     sync.Mutex
	first  *segment   // offset 0: the header, then whatever is packed first; written in Finish
	pack   *segment   // where data that does not fill a segment is collected; nil when just full
	stream *stream    // where compressed clusters go; nil: there are none
	counts *refcounts // of all that was stored

	counting int64 // the number of the refcount block that the stream is in

	data, zero atomic.Int64 // Stats

	failMu   sync.Mutex
	failed   error // the first error
	finished bool
}

// NewWriter makes a Writer of an image in f, which is empty. It writes nothing
// yet. The file stays the caller's: it is neither synced nor closed.
func NewWriter(f File, o Options) (*Writer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	segs := newSegments(f, o.ClusterSize)
	w := &Writer{
		options: o,
		segs:    segs,
		tables:  newTables(segs, o.ClusterSize, clusters(o.VirtualSize, o.ClusterSize)),
		counts:  newRefcounts(o.ClusterSize),

		compressors: newCompressors(o),
	}
	w.first = segs.open()
	w.first.used = o.ClusterSize
	clear(w.first.buf[:w.first.used])
	if o.compressed() {
		w.stream = newStream(segs, w.counts, w.first)
	} else if w.first.room() > 0 {
		w.pack = w.first
	}
	return w, nil
}

// ClusterSize returns the size of a cluster in bytes.
func (w *Writer) ClusterSize() int { return w.options.ClusterSize }

// Write stores whole clusters: data[i*ClusterSize:][:ClusterSize] is what the
// guest has at offsets[i], in bytes, a multiple of the cluster size. Offsets
// come in any order, each at most once over all calls. Of the disk's last
// cluster, what lies beyond the disk is stored as given: the caller pads it
// with zeros. data belongs to the caller and is not kept; whole segments of
// 1 MiB that start at a multiple of 4096 in memory, and of which no cluster is
// compressed, are written without a copy.
//
// Clusters are compressed in the caller's goroutine: several callers side by
// side spread that over the processors. Write is safe for concurrent use. After an error,
// which names the offset, the image is lost: every later call returns the same error.
func (w *Writer) Write(offsets []int64, data []byte) error {
	if err := w.usable(); err != nil {
		return err
	}
	if err := w.checkWrite(offsets, data); err != nil {
		return w.fail(err)
	}
	cs := w.options.ClusterSize
	for len(offsets) > 0 {
		n := min(len(offsets), w.segs.size/cs)
		if err := w.store(offsets[:n], data[:n*cs]); err != nil {
			return w.fail(err)
		}
		offsets, data = offsets[n:], data[n*cs:]
	}
	return nil
}

// WriteFrames stores clusters that are compressed already: frames[i] is a zstd frame that
// unpacks to what Write would be given for offsets[i], smaller than a cluster. Frames are not
// looked into. Options.Frames must be set; otherwise it is as Write. frames belong to the
// caller and are not kept.
func (w *Writer) WriteFrames(offsets []int64, frames [][]byte) error {
	if err := w.usable(); err != nil {
		return err
	}
	if err := w.checkFrames(offsets, frames); err != nil {
		return w.fail(err)
	}
	for len(offsets) > 0 {
		n := min(len(offsets), w.segs.size/w.options.ClusterSize)
		w.countData(offsets[:n])
		entries, full := w.packAll(n, nil, frames[:n])
		if err := w.mapAndClose(offsets[:n], entries, full); err != nil {
			return w.fail(err)
		}
		offsets, frames = offsets[n:], frames[n:]
	}
	return nil
}

func (w *Writer) checkFrames(offsets []int64, frames [][]byte) error {
	if !w.options.Frames {
		return errors.New("frames for a qcow2 image that takes none")
	}
	if len(frames) != len(offsets) {
		return fmt.Errorf("%d frames for %d clusters%s", len(frames), len(offsets), firstOf(offsets))
	}
	for i, frame := range frames {
		if len(frame) == 0 || len(frame) >= w.options.ClusterSize {
			return fmt.Errorf("guest offset %d: a frame of %d bytes for a cluster of %d", offsets[i], len(frame), w.options.ClusterSize)
		}
	}
	return w.checkOffsets(offsets)
}

func (w *Writer) checkWrite(offsets []int64, data []byte) error {
	cs := int64(w.options.ClusterSize)
	if int64(len(data)) != int64(len(offsets))*cs {
		return fmt.Errorf("%d bytes of data for %d clusters of %d bytes%s", len(data), len(offsets), cs, firstOf(offsets))
	}
	return w.checkOffsets(offsets)
}

func (w *Writer) checkOffsets(offsets []int64) error {
	cs := int64(w.options.ClusterSize)
	for _, offset := range offsets {
		if offset < 0 || offset%cs != 0 {
			return fmt.Errorf("guest offset %d: not a multiple of the cluster size of %d bytes", offset, cs)
		}
		if offset >= w.options.VirtualSize {
			return fmt.Errorf("guest offset %d: beyond the end of the disk of %d bytes", offset, w.options.VirtualSize)
		}
	}
	return nil
}

func firstOf(offsets []int64) string {
	if len(offsets) == 0 {
		return ""
	}
	return fmt.Sprintf(", the first at guest offset %d", offsets[0])
}

// store writes at most one segment of clusters.
func (w *Writer) store(offsets []int64, data []byte) error {
	w.countData(offsets)
	if w.compressors != nil {
		return w.storeCompressed(offsets, data)
	}
	return w.storeRaw(offsets, data)
}

// storeCompressed compresses before it takes any lock. How many callers do so
// at once, the compressors bound.
func (w *Writer) storeCompressed(offsets []int64, data []byte) error {
	c := w.compressors.get()
	frames, err := c.compress(data)
	if err != nil || frames == nil {
		w.compressors.put(c)
		if err != nil {
			return err
		}
		return w.storeRaw(offsets, data)
	}
	entries, full := w.packAll(len(offsets), data, frames)
	w.compressors.put(c)
	return w.mapAndClose(offsets, entries, full)
}

func (w *Writer) storeRaw(offsets []int64, data []byte) error {
	if len(data) < w.segs.size || !aligned(data) {
		entries, full := w.packAll(len(offsets), data, nil)
		return w.mapAndClose(offsets, entries, full)
	}
	host := w.segs.reserve()
	if err := w.tables.mapData(offsets, host); err != nil {
		return err
	}
	return w.segs.write(data, host)
}

func (w *Writer) countData(offsets []int64) {
	sum := int64(0)
	for _, offset := range offsets {
		sum += min(int64(w.options.ClusterSize), w.options.VirtualSize-offset)
	}
	w.data.Add(sum)
}

// mapAndClose enters clusters that were packed in the tables, and writes the
// segments that are full now, outside of the lock.
func (w *Writer) mapAndClose(offsets []int64, entries []uint64, full []*segment) error {
	if err := w.tables.mapEntries(offsets, entries); err != nil {
		return err
	}
	for _, s := range full {
		if err := w.segs.close(s); err != nil {
			return err
		}
	}
	return nil
}

// packAll copies n clusters, no more than a segment, into the open segments: those
// that have frames (nil: none has) into the stream, the rest as they are in data. It
// returns the L2 entry of each, and the segments that are full now, which are the
// caller's to write.
func (w *Writer) packAll(n int, data []byte, frames [][]byte) (entries []uint64, full []*segment) {
	cs := w.options.ClusterSize
	entries = make([]uint64, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range entries {
		var host int64
		var s *segment
		if frames != nil && len(frames[i]) > 0 {
			host, s = w.stream.add(frames[i])
			entries[i] = compressedEntry(host, len(frames[i]), cs)
		} else {
			host, s = w.packCluster(data[i*cs:][:cs])
			entries[i] = uint64(host) | entryCopied
		}
		full = w.appendFull(full, s)
	}
	return entries, w.spillRefcounts(full)
}

// packCluster copies a cluster into the open segment. It returns its place in
// the file, and the segment where it is full then.
func (w *Writer) packCluster(p []byte) (host int64, full *segment) {
	if w.pack == nil {
		w.pack = w.segs.open()
	}
	host = w.pack.add(p)
	if w.pack.room() == 0 {
		full, w.pack = w.pack, nil
	}
	return host, full
}

func (w *Writer) appendFull(full []*segment, s *segment) []*segment {
	if s == nil || s == w.first { // that one is Finish's
		return full
	}
	return append(full, s)
}

// spillRefcounts packs the refcount blocks that the stream has left behind, as
// if they were data, once for each block that the stream comes to.
func (w *Writer) spillRefcounts(full []*segment) []*segment {
	if w.stream == nil || w.counts.number(w.stream.position()) == w.counting {
		return full
	}
	w.counting = w.counts.number(w.stream.position())
	for {
		n, ok := w.counts.spillable(w.stream.position(), w.openSegments()...)
		if !ok {
			return full
		}
		host, s := w.packCluster(w.counts.resident[n])
		w.counts.spill(n, host)
		full = w.appendFull(full, s)
	}
}

// openSegments are those that are being filled. Some may be the same.
func (w *Writer) openSegments() []*segment {
	var open []*segment
	add := func(s *segment) {
		if s != nil {
			open = append(open, s)
		}
	}
	add(w.first)
	add(w.tables.openSegment())
	add(w.pack)
	if w.stream != nil {
		add(w.stream.open)
	}
	return open
}

// Zero records that length guest bytes from offset on, multiples of the cluster
// size or up to the end of the disk, read as zeros. With a backing file they
// become zero clusters, which must not have been written and hide what the
// backing file has; without one nothing is stored. It is safe for concurrent
// use; errors are as with Write.
func (w *Writer) Zero(offset, length int64) error {
	if err := w.usable(); err != nil {
		return err
	}
	cs := int64(w.options.ClusterSize)
	size := w.options.VirtualSize
	if offset < 0 || offset%cs != 0 {
		return w.fail(fmt.Errorf("zeros at guest offset %d: not a multiple of the cluster size of %d bytes", offset, cs))
	}
	if length < 0 || offset > size || length > clusters(size, w.options.ClusterSize)*cs-offset {
		return w.fail(fmt.Errorf("zeros at guest offset %d, %d bytes: beyond the end of the disk of %d bytes", offset, length, size))
	}
	if length%cs != 0 && offset+length < size {
		return w.fail(fmt.Errorf("zeros at guest offset %d: %d bytes are not a multiple of the cluster size of %d bytes", offset, length, cs))
	}
	w.zero.Add(min(length, size-offset))
	if w.options.BackingFile == "" || length == 0 {
		return nil
	}
	if err := w.tables.mapZero(offset/cs, clusters(length, w.options.ClusterSize)); err != nil {
		return w.fail(err)
	}
	return nil
}

var errFinished = errors.New("the qcow2 image is finished")

func (w *Writer) usable() error {
	w.failMu.Lock()
	defer w.failMu.Unlock()
	if w.failed == nil && w.finished {
		return errFinished
	}
	return w.failed
}

// fail keeps the first error and returns it.
func (w *Writer) fail(err error) error {
	w.failMu.Lock()
	defer w.failMu.Unlock()
	if w.failed == nil {
		w.failed = err
	}
	return w.failed
}

// clusters is how many clusters hold so many bytes.
func clusters(bytes int64, clusterSize int) int64 {
	return (bytes + int64(clusterSize) - 1) / int64(clusterSize)
}
