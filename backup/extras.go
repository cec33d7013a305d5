package backup

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/guest/extras"
	"github.com/virtbackup/virtbackup/repository"
)

// takeExtras takes what the domain needs to start besides its disks: soon after the instant, and
// under the watch that protects the guest. What cannot be taken is a warning.
func (r *run) takeExtras(ctx context.Context) error {
	point := &countedPoint{Partial: r.partial}
	r.meter.Writes(point)
	taken, err := extras.Take(ctx, extras.Request{
		Domain: r.domain.Domain, Point: point, Earlier: r.points, First: r.plan.Base == nil, Moves: r.meter.Moves,
	})
	r.point.Extras, r.point.Autostart = taken.Extras, taken.Autostart
	for _, w := range taken.Warnings {
		r.warn("%s", w)
	}
	for _, n := range taken.Notes {
		r.note("%s", n)
	}
	return err
}

// countedPoint counts what is written, as the meter counts images: the watch would take it for
// what other programs write.
type countedPoint struct {
	*repository.Partial
	written atomic.Int64
}

// CopyFile is that of Partial.
func (p *countedPoint) CopyFile(name string, from io.Reader) (digest string, size int64, err error) {
	return p.Partial.CopyFile(name, countedReader{from, &p.written})
}

// Taken is how many bytes were written so far.
func (p *countedPoint) Taken() int64 { return p.written.Load() }

type countedReader struct {
	io.Reader
	read *atomic.Int64
}

func (r countedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.read.Add(int64(n))
	return n, err
}
