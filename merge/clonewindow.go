package merge

import (
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/qcow2/graft"
)

// window puts what the upper images say of window i into the clone. One that none of them
// says anything of costs nothing:
//
//	above   |xxxx|    |zero|    |    |zzzz|
//	lowest  |aaaa|bbbb|cccc|    |ddd| the end of the disk was here
//	clone   |xxxx|bbbb|    |    |ddd0|zzzz|
func (c *cloner) window(i int64) error {
	w, err := c.upper.Window(i)
	if err != nil {
		return err
	}
	start := i * c.upper.WindowSize()
	end := min(start+c.upper.WindowSize(), c.upper.Size())
	if w == nil && !c.hides(end-1) && (c.mixedAt < start || c.mixedAt >= end) {
		return nil
	}
	if err := fault.Point("clone window"); err != nil {
		return err
	}
	t, err := c.graft.Table(i)
	if err != nil {
		return err
	}
	for k, at := 0, start; at < end; k, at = k+1, at+cluster {
		state := chain.Absent
		if w != nil {
			state = w.State(k)
		}
		switch {
		case state == chain.Data:
			err = c.data(t, w, k)
		case state == chain.Zero || c.hides(at):
			err = t.Zero(k)
		case at == c.mixedAt:
			err = c.mixed(t, k)
		}
		if err != nil {
			return err
		}
	}
	if err := c.packFrames(t); err != nil {
		return err
	}
	return t.Close()
}

// hides tells whether the end of the lowest image hides what is below at an offset of the
// disk.
func (c *cloner) hides(at int64) bool {
	return len(c.run.Below) > 0 && at >= (c.size+cluster-1)/cluster*cluster
}

// mixed is for the cluster in which the smallest image ends, if no image above the lowest has
// it: what it shows up to there, and zeros behind.
func (c *cloner) mixed(t *graft.Table, k int) error {
	if e := t.Entry(k); !qcow2.HasData(e) && (qcow2.IsZero(e) || len(c.run.Below) == 0) {
		return nil
	}
	whole, err := openChain(c.readers, c.run.target().Path)
	if err != nil {
		return err
	}
	return c.copy(t, k, whole.NewReader(), c.mixedAt)
}

// copy writes what a reader has at an offset of the disk.
func (c *cloner) copy(t *graft.Table, k int, r *chain.Reader, at int64) error {
	if err := c.options.Limits.WaitN(c.ctx, cluster); err != nil {
		return err
	}
	if err := r.Read(c.buf, []int64{at}); err != nil {
		return err
	}
	offset, err := t.Raw(k)
	if err != nil {
		return err
	}
	if _, err := c.file.WriteAt(c.buf, offset); err != nil {
		return err
	}
	c.progress(cluster)
	return nil
}

func (c *cloner) progress(n int64) {
	c.copied += n
	if c.options.Progress != nil {
		c.options.Progress(c.copied)
	}
}

// data puts a cluster of an upper image into the clone.
func (c *cloner) data(t *graft.Table, w *chain.Window, k int) error {
	layer, entry := w.Cell(k)
	at := w.At(k)
	if qcow2.IsCompressed(entry) {
		return c.frame(t, k, at)
	}
	from := len(c.run.Links) - 1 - layer
	offset := c.upper.Header(layer).DataOf(entry).Offset
	if hidden := c.upper.Visible(layer) < min(at+cluster, c.upper.Size()); hidden || !clonable(c.run.Links[from], offset) {
		return c.copy(t, k, c.reader, at)
	}
	to, err := t.Raw(k)
	if err != nil {
		return err
	}
	if !c.pending.takes(from, offset, to) {
		if err := c.flush(); err != nil {
			return err
		}
		c.pending = cloneRun{from: from, offset: offset, to: to}
	}
	c.pending.length += cluster
	return nil
}

// clonable tells whether the cluster at an offset of an image is just a range of its hash
// list.
func clonable(l diskimage.Link, offset int64) bool {
	return l.List().Range == cluster && offset%cluster == 0 && offset+cluster <= l.Disk.ImageBytes
}

// maxCloneRun bounds the hashes that are looked up at once.
const maxCloneRun = 16 << 20

// cloneRun is a part of an image that is cloned at once.
type cloneRun struct {
	from               int // index of the link
	offset, to, length int64
}

func (r cloneRun) takes(from int, offset, to int64) bool {
	return r.length > 0 && r.length < maxCloneRun && r.from == from && r.offset+r.length == offset && r.to+r.length == to
}

// flush clones the run that is pending, and carries its hashes over.
func (c *cloner) flush() error {
	r := c.pending
	c.pending = cloneRun{}
	if r.length == 0 {
		return nil
	}
	if err := fault.Point("clone range"); err != nil {
		return err
	}
	sums, err := c.readers[len(c.run.Below)+r.from].Sums(nil, r.offset/cluster, r.length/cluster)
	if err != nil {
		return err
	}
	source, err := c.sources.open(c.run.Links[r.from])
	if err != nil {
		return err
	}
	if err := localfile.CloneRange(source, r.offset, r.length, c.image, r.to); err != nil {
		return cloneError(source.Name(), err)
	}
	for i, sum := range sums {
		if err := c.file.list.Set(r.to/cluster+int64(i), sum); err != nil {
			return err
		}
	}
	c.progress(r.length)
	return nil
}

// maxFrames are read together.
const maxFrames = 16

// frameBatch are compressed clusters of a table that are copied together.
type frameBatch struct {
	ks      []int
	offsets []int64 // on the disk
}

// frame adds a compressed cluster to the batch.
func (c *cloner) frame(t *graft.Table, k int, at int64) error {
	c.frames.ks, c.frames.offsets = append(c.frames.ks, k), append(c.frames.offsets, at)
	if len(c.frames.ks) < maxFrames {
		return nil
	}
	return c.packFrames(t)
}

// packFrames copies the batch: frames as they are, and unpacked what cannot stay one.
func (c *cloner) packFrames(t *graft.Table) error {
	batch := c.frames
	c.frames = frameBatch{batch.ks[:0], batch.offsets[:0]}
	if len(batch.ks) == 0 {
		return nil
	}
	frames, err := c.reader.Frames(batch.offsets)
	if err != nil {
		return err
	}
	var raw []int
	for i, frame := range frames {
		if frame == nil {
			raw = append(raw, i)
			continue
		}
		if err := c.options.Limits.WaitN(c.ctx, len(frame)); err != nil {
			return err
		}
		if err := t.Packed(batch.ks[i], frame); err != nil {
			return err
		}
		c.progress(cluster)
	}
	for _, i := range raw { // when the frames, which are the reader's, are not needed any more
		if err := c.copy(t, batch.ks[i], c.reader, batch.offsets[i]); err != nil {
			return err
		}
	}
	return nil
}

// changed are the ranges of the clone that were set, joined.
func (f *cloneFile) changed() []hashlist.Range {
	var all []hashlist.Range
	for first, n := range f.list.Changed().Runs(1 << 40) {
		at := hashlist.Range{Offset: first * cluster, Length: n * cluster}
		if len(all) == maxChanged { // the last one grows: reading more back does no harm
			all[len(all)-1].Length = at.Offset + at.Length - all[len(all)-1].Offset
			continue
		}
		all = append(all, at)
	}
	return all
}
