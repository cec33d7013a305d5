package fakelibvirt

import (
	"context"
	"slices"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/source"
)

// export is a disk of a job.
type export struct {
	jobDisk
	changes   bool  // only what is dirty
	dirtyFrom int64 // all behind it is
}

var _ source.Export = (*export)(nil)

// export opens an export of the domain's job; nil if it is not of that job.
func (d *Domain) export(from nbdcopy.Source) source.Export {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.job == nil || d.job.socket != from.Socket {
		return nil
	}
	i := slices.IndexFunc(d.job.disks, func(jd jobDisk) bool { return jd.target == from.Export })
	if i < 0 {
		return nil
	}
	e := &export{jobDisk: d.job.disks[i], changes: from.Bitmap != "", dirtyFrom: from.DirtyFrom}
	if e.dirtyFrom == 0 {
		e.dirtyFrom = int64(len(e.data))
	}
	return e
}

func (e *export) Size() int64 { return int64(len(e.data)) }

func (e *export) Close() {}

// status is that of a cluster.
func (e *export) status(at int64) extent.Status {
	data := clusterAt(e.data, at)
	switch {
	case e.changes && at+int64(len(data)) <= e.dirtyFrom && !e.dirty[at/cluster]:
		return extent.Clean
	case isZero(data):
		return extent.Zero
	}
	return extent.Data
}

// Copy hands the sink one cluster after the other.
func (e *export) Copy(ctx context.Context, sink extent.Sink, o nbdcopy.Options) (stats nbdcopy.Stats, err error) {
	stats.Size = e.Size()
	buf := directio.Buffer(cluster)
	for at := int64(0); at < e.Size() && err == nil; at += cluster {
		if ctx.Err() != nil {
			return stats, context.Cause(ctx)
		}
		data := clusterAt(e.data, at)
		n := int64(len(data))
		switch e.status(at) {
		case extent.Clean:
			stats.Clean += n
		case extent.Zero:
			err = sink.Zero(at, n)
		case extent.Data:
			clear(buf[copy(buf, data):])
			stats.Read, stats.Data = stats.Read+n, stats.Data+n
			err = sink.Write([]int64{at}, buf)
			if o.Progress != nil {
				o.Progress(nbdcopy.Progress{Size: e.Size(), Position: at + n, Copied: stats.Read})
			}
		}
	}
	return stats, err
}

// Measure counts clusters.
func (e *export) Measure(_ context.Context, _ int, moves func()) (m nbdcopy.Measured, err error) {
	for at := int64(0); at < e.Size(); at += cluster {
		moves()
		n := int64(len(clusterAt(e.data, at)))
		switch e.status(at) {
		case extent.Clean:
			m.Clean += n
		case extent.Zero:
			m.Zero += n
		case extent.Data:
			m.Data += n
		}
	}
	return m, nil
}

// CleanClusters looks at the bitmap.
func (e *export) CleanClusters(_ context.Context, start, end, _ int64) (clean []bool, err error) {
	for at := start; at < end; at += cluster {
		clean = append(clean, e.status(at) == extent.Clean)
	}
	return clean, nil
}

// ReadAt reads what the disk held when the job began.
func (e *export) ReadAt(_ context.Context, p []byte, offset int64) error {
	copy(p, e.data[offset:])
	return nil
}
