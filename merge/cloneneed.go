package merge

import (
	"context"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

const (
	// cloneExtent is what a file system takes for its records of one more cluster that is
	// shared: an extent, its reverse mapping and its count of owners, some 60 bytes of XFS,
	// in tree blocks that are half full.
	cloneExtent = 256

	// hashBlock is the least of a list that is written for a hash: a page.
	hashBlock = 4096
)

// CloneNeed returns how many bytes Clone will take of the file system at most. It reads what
// the tables of the images above the lowest say.
func CloneNeed(ctx context.Context, run Run, o Options) (int64, error) {
	readers, closeReaders := diskimage.OpenImages(ctx, run.Links[1:], o.readOptions())
	defer closeReaders()
	upper, err := openChain(readers, run.target().Path)
	if err != nil {
		return 0, err
	}
	n := need{run: run, upper: upper}
	for i := range upper.Windows() {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		w, err := upper.Window(i)
		if err != nil {
			return 0, err
		}
		n.window(i, w)
	}
	return n.bytes(), nil
}

// need is what a clone takes.
type need struct {
	run   Run
	upper *chain.Chain

	tables, frames, clones, freed int64 // tables that change, bytes of compressed clusters, clusters that are cloned, or freed
}

func (n *need) window(i int64, w *chain.Window) {
	lowest := n.run.Links[0].Disk.VirtualSize
	if end := (i + 1) * n.upper.WindowSize(); w != nil || end > lowest {
		n.tables++
	}
	if w == nil {
		return
	}
	for k := range w.Len() {
		switch _, entry := w.Cell(k); {
		case w.State(k) == chain.Zero:
			n.freed++
		case qcow2.IsCompressed(entry):
			n.frames += n.upper.Header(0).DataOf(entry).Length
			n.freed++
		case w.State(k) == chain.Data:
			n.clones++
		}
	}
}

// bytes sums up. Tables, frames, refcount blocks, the L1 and the refcount table, the header
// and the clusters in which images end are written.
func (n *need) bytes() int64 {
	lowest := n.run.Links[0].Disk
	frames := n.frames + n.frames/8 + cluster // what does not fit into the rest of a host cluster is lost
	grown := lowest.ImageBytes + frames + (n.clones+n.tables)*cluster
	perBlock := int64(cluster / 2 * cluster)
	changes := n.tables + n.freed + n.clones + frames/cluster
	blocks := min(grown/perBlock+2, changes+2)
	tables := n.tables + blocks + 3 + 2*int64(len(n.run.Links)) + 2*(8*(n.upper.Windows()+blocks)/cluster)
	hashes := min(hashlist.FileSize(grown), hashBlock*(changes+tables)+hashlist.FileSize(grown)/2048+2*hashBlock)
	hashes += hashlist.FileSize(grown) - hashlist.FileSize(lowest.ImageBytes)
	return frames + tables*cluster + hashes + n.clones*cloneExtent
}
