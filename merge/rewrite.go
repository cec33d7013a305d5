package merge

import (
	"context"
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Rewrite copies a run into im, which is empty, and finishes it: both of its files are
// complete and on stable storage. Compressed clusters are copied as they are. All that is
// read was compared with its hashes first: damage is a *damage.Error. With an error, also
// if ctx is cancelled, im is the caller's to discard.
//
// It takes some 50 MiB of memory, whatever the length of the run, besides what
// diskimage.OpenChain keeps of each image.
func Rewrite(ctx context.Context, run Run, im *diskimage.Image, o Options) (Stats, error) {
	stats, err := rewrite(ctx, run, im, o)
	if err != nil {
		return Stats{}, fmt.Errorf("merge the %d images of %s: %w", len(run.Links), run.name(), err)
	}
	return stats, nil
}

func rewrite(ctx context.Context, run Run, im *diskimage.Image, o Options) (Stats, error) {
	images, closeImages, err := run.open(ctx, o)
	if err != nil {
		return Stats{}, err
	}
	defer closeImages()
	writer, err := qcow2.NewWriter(im, run.options(images))
	if err != nil {
		return Stats{}, err
	}
	if err := copyRun(ctx, run, images, writer, o); err != nil {
		return Stats{}, err
	}
	stats, err := writer.Finish(im.Sync)
	if err != nil {
		return Stats{}, err
	}
	hashes, size, err := im.Finish()
	if err != nil {
		return Stats{}, err
	}
	return Stats{DataBytes: stats.DataBytes, ZeroBytes: stats.ZeroBytes, ImageBytes: size, Hashes: hashes,
		Written: size, Changed: []hashlist.Range{{Length: size}}}, nil
}

// options are those of the result.
func (r Run) options(images *chain.Chain) qcow2.Options {
	o := qcow2.Options{VirtualSize: images.Size(), ClusterSize: int(images.ClusterSize()), BackingFile: r.parent()}
	if o.BackingFile != "" {
		o.BackingFormat = "qcow2"
	}
	for i := range images.Images() {
		o.Frames = o.Frames || images.Header(i).Compression == qcow2.CompressionZstd
	}
	return o
}

func copyRun(ctx context.Context, run Run, images *chain.Chain, writer *qcow2.Writer, o Options) error {
	sink := &limited{Writer: writer, ctx: ctx, limits: o.Limits}
	copied := o.Progress
	if copied == nil {
		copied = func(int64) {}
	}
	if err := flatten.CopyFrames(ctx, images, sink, copied); err != nil {
		return err
	}
	edge, ok, err := run.edge(images)
	if err != nil || !ok {
		return err
	}
	return copyEdge(ctx, run, edge, sink, o)
}

// edge finds the cluster that shows what is below the run only in part: the smallest image
// of the run ends in it, none of them has it, and the disk goes on:
//
//	below   |bbbb|bbbb|bbbb|
//	lowest  |    |  ┊           ends here: reads as zeros behind
//	target  |    |    |    |
//	result  |    |bb00|zero|
//
// ok is false if there is no such cluster.
func (r Run) edge(images *chain.Chain) (offset int64, ok bool, err error) {
	end := images.Visible(images.Images() - 1)
	within := end % images.ClusterSize()
	if len(r.Below) == 0 || within == 0 || end == images.Size() {
		return 0, false, nil
	}
	w, err := images.Window(end / images.WindowSize())
	if err != nil || w == nil {
		return end - within, err == nil, err
	}
	return end - within, w.State(int((end-w.Offset)/images.ClusterSize())) == chain.Absent, nil
}

// copyEdge copies a cluster as the whole chain shows it. If no image has data there, it
// reads as zeros without it, too.
func copyEdge(ctx context.Context, run Run, offset int64, sink *limited, o Options) error {
	whole := append(append([]diskimage.Link{}, run.Below...), run.Links...)
	images, _, closeImages, err := diskimage.OpenChain(ctx, whole, o.readOptions())
	if err != nil {
		return err
	}
	defer closeImages()
	w, err := images.Window(offset / images.WindowSize())
	if err != nil || w == nil || w.State(int((offset-w.Offset)/images.ClusterSize())) != chain.Data {
		return err
	}
	data := make([]byte, images.ClusterSize())
	if err := images.NewReader().Read(data, []int64{offset}); err != nil {
		return err
	}
	return sink.Write([]int64{offset}, data)
}

// limited is a Writer that takes no more bytes per second than the limit.
type limited struct {
	*qcow2.Writer
	ctx    context.Context
	limits *limit.Limits
}

// Write is that of extent.Sink.
func (l *limited) Write(offsets []int64, data []byte) error {
	if err := l.limits.WaitN(l.ctx, len(data)); err != nil {
		return err
	}
	return l.Writer.Write(offsets, data)
}

// WriteFrames is that of flatten.FrameSink.
func (l *limited) WriteFrames(offsets []int64, frames [][]byte) error {
	n := 0
	for _, frame := range frames {
		n += len(frame)
	}
	if err := l.limits.WaitN(l.ctx, n); err != nil {
		return err
	}
	return l.Writer.WriteFrames(offsets, frames)
}

// open opens the run without what is below it. All that is read of it is proven.
func (r Run) open(ctx context.Context, o Options) (*chain.Chain, func(), error) {
	if err := r.check(); err != nil {
		return nil, nil, err
	}
	images, _, closeImages, err := diskimage.OpenChain(ctx, r.Links, o.readOptions())
	if err != nil {
		return nil, nil, err
	}
	if size := r.target().Disk.VirtualSize; images.Size() != size {
		closeImages()
		return nil, nil, fmt.Errorf("%s has %d bytes, its manifest says %d", r.target().Path, images.Size(), size)
	}
	return images, closeImages, nil
}

// check refuses a run that its caller has put together wrongly.
func (r Run) check() error {
	if len(r.Links) == 0 {
		return errors.New("a run without images")
	}
	if parent := r.parent(); (parent == "") != (len(r.Below) == 0) {
		return fmt.Errorf("the lowest image of the run has the backing file %q, %d images are below", parent, len(r.Below))
	}
	return nil
}

func (r Run) name() string {
	if len(r.Links) == 0 {
		return "a run"
	}
	t := r.target()
	return fmt.Sprintf("disk %s of %s@%s", t.Disk.Target, t.Point.Domain, t.Point.ID)
}
