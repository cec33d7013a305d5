package qcow2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// change is what one call tells the Writer.
type change struct {
	offsets []int64 // with data
	data    []byte
	zero    int64 // else zeros from here
	length  int64
}

// model is what the guest should see, and the calls that make an image of it.
type model struct {
	size    int64
	raw     []byte
	changes []change
	data    int64
	zeros   int64
}

// randomModel covers about a third of the disk's clusters with data and zeros,
// on top of what raw has; batches hold clusters from anywhere on the disk.
func randomModel(r *rand.Rand, raw []byte, clusterSize int) *model {
	m := &model{size: int64(len(raw)), raw: raw}
	cs := int64(clusterSize)
	n := clusters(m.size, clusterSize)
	var loose []int64
	for c := int64(0); c < n; {
		run := min(1+r.Int64N(1+r.Int64N(64)), n-c)
		switch r.IntN(6) {
		case 0:
			m.addZero(c*cs, min(run*cs, m.size-c*cs))
		case 1:
			for i := range run {
				loose = append(loose, (c+i)*cs)
			}
		}
		c += run
	}
	if r.IntN(2) == 0 {
		r.Shuffle(len(loose), func(i, j int) { loose[i], loose[j] = loose[j], loose[i] })
	}
	for len(loose) > 0 {
		perSegment := max(1, segmentSize/clusterSize)
		k := 1 + r.IntN(perSegment+perSegment/4+1)
		if r.IntN(3) == 0 {
			k = perSegment
		}
		k = min(k, len(loose))
		m.addData(r, loose[:k], clusterSize)
		loose = loose[k:]
	}
	r.Shuffle(len(m.changes), func(i, j int) { m.changes[i], m.changes[j] = m.changes[j], m.changes[i] })
	return m
}

func (m *model) addZero(offset, length int64) {
	clear(m.raw[offset : offset+length])
	m.zeros += length
	m.changes = append(m.changes, change{zero: offset, length: length})
}

func (m *model) addData(r *rand.Rand, offsets []int64, clusterSize int) {
	c := change{offsets: offsets, data: alignedBuffer(len(offsets) * clusterSize)}
	if r.IntN(4) == 0 {
		c.data = make([]byte, len(c.data)+1)[1:] // not aligned
	}
	for i, offset := range offsets {
		part := c.data[i*clusterSize:][:min(int64(clusterSize), m.size-offset)]
		fillMixed(r, part)
		m.data += int64(copy(m.raw[offset:], part))
	}
	m.changes = append(m.changes, c)
}

// play makes the calls from several goroutines at once.
func (m *model) play(t *testing.T, w *Writer, workers int) {
	t.Helper()
	queue := make(chan change)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for c := range queue {
				if err := c.apply(w); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, c := range m.changes {
		queue <- c
	}
	close(queue)
	wg.Wait()
}

func (c change) apply(w *Writer) error {
	if c.offsets == nil {
		return w.Zero(c.zero, c.length)
	}
	if w.options.Frames {
		return c.applyFrames(w)
	}
	return w.Write(c.offsets, c.data)
}

// applyFrames gives the Writer frames of those clusters that get smaller.
func (c change) applyFrames(w *Writer) error {
	compressor := newCompressor(w.options.ClusterSize, frames(true)())
	var packed, raw []int64
	var parts [][]byte
	var data []byte
	for i, offset := range c.offsets {
		cluster := c.data[i*w.options.ClusterSize:][:w.options.ClusterSize]
		frame, err := compressor.compress(cluster)
		switch {
		case err != nil:
			return err
		case frame == nil || i%5 == 0:
			raw, data = append(raw, offset), append(data, cluster...)
		default:
			packed, parts = append(packed, offset), append(parts, bytes.Clone(frame[0]))
		}
	}
	return errors.Join(w.WriteFrames(packed, parts), w.Write(raw, data))
}

// finish finishes an image and holds order, hashes and Stats to the contract.
func finish(t *testing.T, w *Writer, f *checkedFile) Stats {
	t.Helper()
	if f.header {
		t.Error("the file looked like an image before Finish")
	}
	stats, err := w.Finish(func() error {
		if f.header {
			t.Error("the header was written before the sync")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if last := f.writes[len(f.writes)-1]; last.offset != 0 || !f.header {
		t.Errorf("the last write was at offset %d, not of the header", last.offset)
	}
	info, err := f.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != stats.FileBytes || info.Size()%int64(w.ClusterSize()) != 0 {
		t.Errorf("file of %d bytes, Stats say %d", info.Size(), stats.FileBytes)
	}
	f.verify()
	return stats
}

func TestRandomImages(t *testing.T) {
	r := newRand(t)
	for clusterSize := minClusterSize; clusterSize <= MaxClusterSize; clusterSize *= 2 {
		size := 512 * (1 + r.Int64N(20<<20/512))
		for _, compressed := range [][2]bool{{false, false}, {true, true}, {false, true}, {true, false}} {
			testChain(t, r, clusterSize, size, compressed)
			if testing.Short() {
				break
			}
		}
	}
}

// testChain writes a full and an incremental onto it.
func testChain(t *testing.T, r *rand.Rand, clusterSize int, size int64, compressed [2]bool) {
	t.Helper()
	dir := t.TempDir()
	limit, workers := 1+r.IntN(4), 1+r.IntN(4)
	raw := make([]byte, size)
	o := Options{VirtualSize: size, ClusterSize: clusterSize}
	for i, name := range []string{"full", "inc"} {
		o.NewCompressor, o.Frames = frames(compressed[i]), compressed[i] && r.IntN(2) == 0
		if o.Frames && r.IntN(2) == 0 {
			o.NewCompressor = nil
		}
		m := randomModel(r, raw, clusterSize)
		w, f := newImage(t, dir, name+".qcow2", o)
		w.tables.limit = limit
		if w.stream != nil {
			w.stream.taken = r.Int64N(2 * maxRun * runShare) // as if large: long runs
		}
		m.play(t, w, workers)
		stats := finish(t, w, f)
		if stats.DataBytes != m.data || stats.ZeroBytes != m.zeros {
			t.Errorf("Stats %+v, want %d bytes of data and %d of zeros", stats, m.data, m.zeros)
		}
		image := filepath.Join(dir, name+".qcow2")
		writeFile(t, filepath.Join(dir, name), raw)
		judge(t, image, filepath.Join(dir, name))
		checkHeader(t, image, o)
		if t.Failed() {
			t.Fatalf("%s: clusters of %d bytes, disk of %d bytes, compressed %v, %d tables in memory, %d workers", name, clusterSize, size, compressed, limit, workers)
		}
		o.BackingFile, o.BackingFormat = "full.qcow2", "qcow2"
	}
}

func checkHeader(t *testing.T, image string, o Options) {
	t.Helper()
	h := readHeaderOf(t, image)
	compression := 0
	if o.NewCompressor != nil || o.Frames {
		compression = CompressionZstd
	}
	if h.Version != 3 || h.ClusterSize != o.ClusterSize || h.VirtualSize != o.VirtualSize ||
		h.BackingFile != o.BackingFile || h.BackingFormat != o.BackingFormat || h.Compression != compression ||
		h.Incompatible != uint64(compression)*IncompatibleCompression {
		t.Errorf("header %+v of an image with %+v", h, o)
	}
}

func TestEmptyImagesAreSmall(t *testing.T) {
	for _, size := range []int64{0, 512, 1 << 20, 1 << 40, 64 << 40} {
		dir := t.TempDir()
		w, f := newImage(t, dir, "a.qcow2", Options{VirtualSize: size})
		stats := finish(t, w, f)
		l1 := clusters(clusters(size, 512<<20)*8, 64<<10)
		if want := (3 + l1) * 64 << 10; stats.FileBytes != want {
			t.Errorf("empty image of %d bytes: a file of %d bytes, want %d", size, stats.FileBytes, want)
		}
		qemuImg(t, "check", filepath.Join(dir, "a.qcow2"))
	}
}

// A few clusters do not make a segment: the image stays as small as they are.
func TestSmallImage(t *testing.T) {
	r := newRand(t)
	m := &model{size: 10 << 20, raw: make([]byte, 10<<20)}
	m.addData(r, []int64{0, 9 << 20}, 64<<10)
	dir := t.TempDir()
	w, f := newImage(t, dir, "a.qcow2", Options{VirtualSize: m.size})
	m.play(t, w, 1)
	stats := finish(t, w, f)
	if want := int64(7 * 64 << 10); stats.FileBytes != want { // header, data, L2, L1, refcounts
		t.Errorf("a file of %d bytes, want %d", stats.FileBytes, want)
	}
	writeFile(t, filepath.Join(dir, "raw"), m.raw)
	judge(t, filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "raw"))
}

// A whole segment goes to the file in one write from the caller's memory.
func TestFullSegmentIsNotCopied(t *testing.T) {
	w, f := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: 1 << 30})
	data := alignedBuffer(segmentSize)
	offsets := make([]int64, 16)
	for i := range offsets {
		offsets[i] = int64(i) * 10 << 20
	}
	if err := w.Write(offsets, data); err != nil {
		t.Fatal(err)
	}
	if len(f.writes) != 1 || f.writes[0] != (write{segmentSize, segmentSize}) {
		t.Errorf("writes %v, want one of a segment at offset %d", f.writes, segmentSize)
	}
	if w.first.used != w.ClusterSize() {
		t.Error("the clusters were copied")
	}
	for i := range offsets {
		offsets[i] += 64 << 10
	}
	allocs := testing.AllocsPerRun(10, func() {
		if err := w.Write(offsets, data); err != nil {
			t.Fatal(err)
		}
		for i := range offsets {
			offsets[i] += 64 << 10
		}
	})
	if allocs > 4 { // the checks of the test's file
		t.Errorf("%v allocations in a Write", allocs)
	}
}

func TestWrongCalls(t *testing.T) {
	const cs = 64 << 10
	one := make([]byte, cs)
	size := int64(10*cs + 512)
	for _, test := range []struct {
		name string
		call func(w *Writer) error
		want string
	}{
		{"written twice", func(w *Writer) error { return w.Write([]int64{2 * cs, 2 * cs}, make([]byte, 2*cs)) }, "offset 131072 is written twice"},
		{"data over zeros", func(w *Writer) error { return errors.Join(w.Zero(cs, cs), w.Write([]int64{cs}, one)) }, "offset 65536 is written twice"},
		{"zeros over data", func(w *Writer) error { return errors.Join(w.Write([]int64{cs}, one), w.Zero(0, 3*cs)) }, "offset 65536 is written twice"},
		{"misaligned", func(w *Writer) error { return w.Write([]int64{4096}, one) }, "offset 4096: not a multiple"},
		{"negative", func(w *Writer) error { return w.Write([]int64{-cs}, one) }, "offset -65536: not a multiple"},
		{"beyond the end", func(w *Writer) error { return w.Write([]int64{11 * cs}, one) }, "offset 720896: beyond the end"},
		{"too little data", func(w *Writer) error { return w.Write([]int64{cs, 2 * cs}, one) }, "offset 65536"},
		{"too much data", func(w *Writer) error { return w.Write(nil, one) }, "65536 bytes of data for 0 clusters"},
		{"zeros misaligned", func(w *Writer) error { return w.Zero(512, cs) }, "offset 512: not a multiple"},
		{"zeros of half a cluster", func(w *Writer) error { return w.Zero(cs, 512) }, "offset 65536: 512 bytes"},
		{"zeros beyond the end", func(w *Writer) error { return w.Zero(10*cs, 2*cs) }, "offset 655360, 131072 bytes: beyond"},
		{"zeros of negative length", func(w *Writer) error { return w.Zero(0, -cs) }, "beyond the end"},
		{"frames unasked for", func(w *Writer) error { w.options.Frames = false; return w.WriteFrames([]int64{cs}, [][]byte{one[:9]}) }, "takes none"},
		{"too few frames", func(w *Writer) error { return w.WriteFrames([]int64{cs, 2 * cs}, [][]byte{one[:9]}) }, "1 frames for 2 clusters, the first at guest offset 65536"},
		{"empty frame", func(w *Writer) error { return w.WriteFrames([]int64{cs}, [][]byte{nil}) }, "offset 65536: a frame of 0 bytes"},
		{"frame of a cluster", func(w *Writer) error { return w.WriteFrames([]int64{cs}, [][]byte{one}) }, "offset 65536: a frame of 65536 bytes"},
		{"frame misaligned", func(w *Writer) error { return w.WriteFrames([]int64{512}, [][]byte{one[:9]}) }, "offset 512: not a multiple"},
		{"frame beyond the end", func(w *Writer) error { return w.WriteFrames([]int64{11 * cs}, [][]byte{one[:9]}) }, "offset 720896: beyond the end"},
		{"frame twice", func(w *Writer) error { return w.WriteFrames([]int64{cs, cs}, [][]byte{one[:9], one[:9]}) }, "offset 65536 is written twice"},
		{"zeros that overflow", func(w *Writer) error { return w.Zero(cs, 1<<63-cs) }, "beyond the end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, f := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: size, BackingFile: "b", BackingFormat: "raw", Frames: true})
			err := test.call(w)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q in it", err, test.want)
			}
			again := w.Write([]int64{5 * cs}, one)
			if !errors.Is(err, again) {
				t.Errorf("a later call returns %v", again)
			}
			if _, later := w.Finish(nil); later != again {
				t.Errorf("Finish returns %v", later)
			}
			if f.header {
				t.Error("a failed image got a header")
			}
		})
	}
}

// Whatever write fails, the error comes out and no image is left.
func TestFailedWrites(t *testing.T) {
	r := newRand(t)
	for _, compressed := range []bool{false, true} {
		for n := 0; failWrite(t, r, n, compressed); n++ {
		}
	}
}

// failWrite fails the write with a number, and says whether there was one.
func failWrite(t *testing.T, r *rand.Rand, n int, compressed bool) bool {
	t.Helper()
	disk := errors.New("no space left")
	m := randomModel(r, make([]byte, 6<<20), 4096)
	w, f := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: m.size, ClusterSize: 4096, NewCompressor: frames(compressed)})
	w.tables.limit = 2
	f.fail = func(int64) error {
		if len(f.writes) == n {
			return disk
		}
		return nil
	}
	for _, c := range m.changes {
		if c.apply(w) != nil {
			break
		}
	}
	_, err := w.Finish(nil)
	if err == nil {
		return false
	}
	if !errors.Is(err, disk) || !strings.Contains(err.Error(), "offset") {
		t.Fatalf("write %d fails: error %v", n, err)
	}
	if f.header {
		t.Fatalf("write %d fails: the file has a header", n)
	}
	return true
}

func TestFailedSync(t *testing.T) {
	w, f := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: 1 << 20})
	broken := errors.New("input/output error")
	if _, err := w.Finish(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Finish returns %v", err)
	}
	if f.header {
		t.Error("the header was written after a failed sync")
	}
	if _, err := w.Finish(nil); !errors.Is(err, broken) {
		t.Errorf("Finish once more returns %v", err)
	}
}

func TestFinishOnce(t *testing.T) {
	w, f := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: 1 << 20})
	finish(t, w, f)
	if _, err := w.Finish(nil); !errors.Is(err, errFinished) {
		t.Errorf("Finish once more returns %v", err)
	}
	if err := w.Zero(0, 1<<20); !errors.Is(err, errFinished) {
		t.Errorf("Zero after Finish returns %v", err)
	}
}
