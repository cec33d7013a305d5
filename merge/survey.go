package merge

import (
	"context"
	"fmt"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Census is what the tables of a run say, in bytes. A compressed cluster counts as what its
// L2 entry names: the frame, and the rest of its last sector.
type Census struct {
	Total int64 // of data clusters in all images of the run
	Kept  int64 // of those, what the result holds
	// Need is what a rewrite takes of the file system, image and hash list. It takes no
	// more; how much less, qcow2.Options.FileBytes says.
	Need int64
}

// Survey reads the tables of a run, and none of its data.
func Survey(ctx context.Context, run Run, o Options) (Census, error) {
	c, err := survey(ctx, run, o)
	if err != nil {
		return Census{}, fmt.Errorf("survey the %d images of %s: %w", len(run.Links), run.name(), err)
	}
	return c, nil
}

func survey(ctx context.Context, run Run, o Options) (Census, error) {
	images, closeImages, err := run.open(ctx, o)
	if err != nil {
		return Census{}, err
	}
	defer closeImages()
	kept, total := count{standalone: run.parent() == ""}, count{}
	if err := kept.chain(ctx, images); err != nil {
		return Census{}, err
	}
	for _, link := range run.Links {
		if err := total.link(ctx, link, o); err != nil {
			return Census{}, err
		}
	}
	c := Census{Total: total.bytes, Kept: kept.bytes}
	if _, ok, err := run.edge(images); err != nil {
		return Census{}, err
	} else if ok {
		kept.Clusters++
		kept.Tables++ // perhaps none has been there
	}
	image := run.options(images).FileBytes(kept.Content)
	c.Need = image + hashlist.FileSize(image)
	return c, nil
}

// count adds up what chains hold.
type count struct {
	qcow2.Content       // of one image that shows the same
	standalone    bool  // it has no zero clusters
	bytes         int64 // of data as it lies in the images
}

// link adds what one image holds, whatever hides it.
func (c *count) link(ctx context.Context, l diskimage.Link, o Options) error {
	image, _, closeImage, err := diskimage.OpenChain(ctx, []diskimage.Link{l}, o.readOptions())
	if err != nil {
		return err
	}
	defer closeImage()
	return c.chain(ctx, image)
}

func (c *count) chain(ctx context.Context, images *chain.Chain) error {
	for i := range images.Windows() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w, err := images.Window(i)
		if err != nil {
			return err
		}
		if w != nil {
			c.window(images, w)
		}
	}
	return nil
}

func (c *count) window(images *chain.Chain, w *chain.Window) {
	zeros, data := 0, 0
	for k := 0; k < w.Len(); {
		end, state := w.Run(k)
		switch state {
		case chain.Zero:
			zeros += end - k
		case chain.Data:
			data += end - k
			for i := k; i < end; i++ {
				c.cluster(images, w, i)
			}
		}
		k = end
	}
	switch {
	case zeros == int(images.WindowSize()/images.ClusterSize()) && !c.standalone:
		c.ZeroTables++
	case data > 0 || zeros > 0 && !c.standalone:
		c.Tables++
	}
}

// cluster adds a cluster with data. A frame that is cut by the end of an image is unpacked.
func (c *count) cluster(images *chain.Chain, w *chain.Window, k int) {
	layer, entry := w.Cell(k)
	length := images.Header(layer).DataOf(entry).Length
	c.bytes += length
	if !qcow2.IsCompressed(entry) || w.At(k)+images.ClusterSize() > images.Visible(layer) {
		c.Clusters++
		return
	}
	c.FrameBytes, c.LargestFrame = c.FrameBytes+length, max(c.LargestFrame, length)
}
